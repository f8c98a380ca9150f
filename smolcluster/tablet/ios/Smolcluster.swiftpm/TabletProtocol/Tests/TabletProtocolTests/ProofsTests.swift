#if canImport(CryptoKit)
import Foundation
import Testing

@testable import TabletProtocol

@Suite struct ProofsTests {
    let key = tabletKey(secret: Data("the secret of the run".utf8))

    @Test func theProofsAreTheGoldenOnes() throws {
        let (hello, challenge) = (try golden("hello"), try golden("challenge"))
        let shown = proof(key: key, label: diallerLabel, hello: hello, challenge: challenge)
        #expect(encode(.proof(shown)) == (try golden("proof")))
        let welcome = proof(key: key, label: listenerLabel, hello: hello, challenge: challenge)
        #expect(encode(.welcome(welcome)) == (try golden("welcome")))
        #expect(proves(shown, key: key, label: diallerLabel, hello: hello, challenge: challenge))
        #expect(!proves(shown, key: key, label: listenerLabel, hello: hello, challenge: challenge))
        #expect(!proves(shown, key: Data(count: 32), label: diallerLabel, hello: hello, challenge: challenge))
    }
}
#endif
