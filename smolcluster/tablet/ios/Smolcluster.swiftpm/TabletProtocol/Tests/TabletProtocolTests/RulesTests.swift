import Foundation
import Testing

@testable import TabletProtocol

@Suite struct RulesTests {
    private func forward(_ session: UInt64, _ position: UInt32, _ tokens: UInt32, width: UInt32 = 3) -> Hidden {
        Hidden(
            request: 5, session: session, position: position, tokens: tokens, width: width, number: .fp16,
            values: Data(count: Int(2 * tokens * width)))
    }

    /// Sessions, and what a FORWARD is answered.
    private final class Book {
        var sessions = Sessions<Int>(context: 10, width: 3)

        func open(_ session: UInt64, _ capacity: UInt32) {
            sessions.open(Open(session: session, capacity: capacity)) { 1 }
        }

        /// Nil where it may be computed.
        func code(_ hidden: Hidden) -> Code? {
            do {
                _ = try sessions.take(hidden)
                return nil
            } catch let failure as Failure {
                return failure.request == hidden.request && failure.session == hidden.session ? failure.code : .refused
            } catch {
                return .badMessage
            }
        }
    }

    @Test func aPositionFollowsAndAnErrorEndsTheSession() {
        let book = Book()
        #expect(book.code(forward(1, 0, 1)) == .unknownSession)
        book.open(1, 6)
        #expect(book.code(forward(1, 0, 4)) == nil)
        #expect(book.code(forward(1, 4, 2)) == nil)
        #expect(book.code(forward(1, 6, 1)) == .full)
        #expect(book.code(forward(1, 6, 1)) == .unknownSession)
        book.open(1, 6)
        #expect(book.code(forward(1, 1, 1)) == .outOfOrder)
        book.open(1, 6)
        #expect(book.code(forward(1, 0, 1, width: 4)) == .failed)
        #expect(book.sessions.count == 0)
    }

    @Test func aSessionWithoutRoomIsNotOpened() {
        let book = Book()
        book.open(1, 11)
        book.open(2, 0)
        #expect(book.sessions.count == 0)
        for number in 0..<UInt64(mostSessions + 1) { book.open(number, 1) }
        #expect(book.sessions.count == mostSessions)
    }

    @Test func aPromptGoesInThePiecesThatTheProgramTakes() {
        #expect(pieces(of: 75, lengths: [1, 8, 64]) == [64, 8, 1, 1, 1])
        #expect(pieces(of: 1, lengths: [1, 8, 64]) == [1])
        #expect(pieces(of: 3, lengths: [1]) == [1, 1, 1])
    }

    @Test func aListingLeadsNowhereButIntoItsFolder() throws {
        func listing(_ path: String) throws -> Data {
            let file: [String: Any] = ["path": path, "sha256": String(repeating: "0", count: 64), "size": 1]
            let manifest: [String: Any] = ["path": "stage.json", "sha256": "", "size": 1]
            let stage: [String: Any] = [
                "schema": 1, "hash": "h", "format": "coreml", "file": "stage.mlpackage", "layers": "4:8", "width": 3,
                "context": 10, "lengths": [1, 8], "last": false, "model": "gpt2",
            ]
            return try JSONSerialization.data(withJSONObject: ["files": [manifest, file], "stage": stage])
        }
        #expect(try readListing(listing(weight)).sizeBytes == 2)
        for path in ["../up", "/etc/passwd", "a/../../up", "a//b", "./a", "", "a\\b", "C:/a", "a\nb", "STAGE.JSON"] {
            #expect(throws: BadMessage.self, "\(path)") { try readListing(listing(path)) }
        }
    }

    @Test func aKeyIsTypedOrScanned() {
        let digits = String(repeating: "0f", count: 32)
        let key = Data(repeating: 0x0f, count: 32)
        #expect(keyIn(" \(digits.uppercased())\n") == key)
        #expect(keyIn("http://192.168.1.5:8443/#key=\(digits)") == key)
        #expect(keyIn("smolcluster://172.20.10.3:8000/#run=x&key=\(digits)") == key)
        for text in ["", "#", "#key=", String(digits.dropLast()), "http://192.168.1.5/?key=\(digits)"] {
            #expect(keyIn(text) == nil, "\(text)")
        }
    }
}
