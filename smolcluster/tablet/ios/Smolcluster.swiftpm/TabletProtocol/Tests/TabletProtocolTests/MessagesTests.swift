import Foundation
import Testing

@testable import TabletProtocol

@Suite struct MessagesTests {
    @Test func theBytesAreTheGoldenOnesBothWays() throws {
        for (name, message) in messages {
            let bytes = try golden(name)
            #expect(encode(message) == bytes, "\(name)")
            #expect(try decode(bytes) == message, "\(name)")
        }
    }

    @Test func halfAMessageAndOneTooLongAreNone() throws {
        for (name, _) in messages {
            let bytes = try golden(name)
            // How many bytes a piece of a file has, the WebSocket says.
            for end in 0..<(name == "piece" ? 24 : bytes.count) {
                #expect(throws: BadMessage.self, "\(name) \(end)") { try decode(Data(bytes.prefix(end))) }
            }
            #expect(throws: BadMessage.self, "\(name)") { try decode(Data(Array(bytes) + [0])) }
        }
    }

    @Test func anotherVersionIsToldApart() throws {
        var bytes = encode(.ping(1))
        bytes[2] = 2
        #expect(throws: BadMessage("version 2, this app has 1", .version)) { try decode(bytes) }
    }

    @Test func garbageIsRefused() throws {
        let forward = try golden("forward_fp16")
        let fetch = try golden("fetch")
        let garbage: [Data] = [
            Data([0x53, 0x54, 1, 99]),
            Data("GET / HTTP/1.1".utf8),
            Data([0x53, 0x54, 1, 1] + Array("{}".utf8)),
            Data([0x53, 0x54, 1, 1] + [UInt8](repeating: 0x5b, count: 8000)),
            Data([0x53, 0x54, 1, 1] + [UInt8](repeating: 0x20, count: mostSmall)),
            changed(forward, 28, [2]),
            changed(forward, 20, [UInt8](repeating: 255, count: 8)),
            changed(forward.prefix(32), 20, [0, 0, 0, 0]),
            changed(fetch, 20, [255, 255]),
        ]
        for bytes in garbage {
            #expect(throws: BadMessage.self) { try decode(bytes) }
        }
    }

    private func changed(_ data: Data, _ offset: Int, _ bytes: [UInt8]) -> Data {
        var all = Array(data)
        all.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return Data(all)
    }

    @Test func aReasonThatIsTooLongIsCutBetweenLetters() throws {
        let failure = Failure(.failed, String(repeating: "é", count: 600))
        let bytes = encode(.error(failure))
        #expect(try decode(bytes) == .error(Failure(.failed, String(repeating: "é", count: 500))))
    }
}
