/// HELLO, CHALLENGE, PROOF, WELCOME: the listener's side. As greeting.py.

import Foundation
import Security
import TabletProtocol

/// Who dialled, after its proof. Failure 2 for whoever has none; nothing else was said to it.
func greetAsListener(_ channel: Channel, _ me: Me) async throws -> Greeting {
    let helloBytes = try await channel.receiveBytes()
    guard case .hello(let hello) = try decode(helloBytes) else { throw BadMessage("no HELLO") }
    guard hello.role == .cluster else { throw Failure(.refused, "\(me.name) is a tablet too") }
    let challenge = encode(.challenge(Greeting(name: me.name, nonce: try nonce(), role: .tablet, run: hello.run)))
    channel.send(challenge)
    guard case .proof(let digest) = try await channel.receive() else { throw BadMessage("no PROOF") }
    guard proves(digest, key: me.key, label: diallerLabel, hello: helloBytes, challenge: challenge) else {
        throw Failure(.refused, "no proof of the key that \(me.name) has: show it the key of this run")
    }
    channel.send(.welcome(proof(key: me.key, label: listenerLabel, hello: helloBytes, challenge: challenge)))
    channel.admit()
    return hello
}

private func nonce() throws -> String {
    var bytes = [UInt8](repeating: 0, count: 32)
    guard SecRandomCopyBytes(kSecRandomDefault, bytes.count, &bytes) == errSecSuccess else {
        throw Lost(description: "no random numbers")
    }
    return bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
}
