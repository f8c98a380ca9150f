/// A WebSocket to the cluster, as messages. Whoever says nothing for `silenceSeconds` is gone.

import Foundation
import Network
import TabletProtocol

let silenceSeconds = 10.0

struct Lost: Error, CustomStringConvertible {
    let description: String
}

final class Channel: @unchecked Sendable {
    private let connection: NWConnection
    private let queue = DispatchQueue(label: "smolcluster.channel")
    // Of `queue`.
    private var silence: DispatchWorkItem?
    private var most = mostSmall

    init(_ connection: NWConnection) {
        self.connection = connection
    }

    func start() {
        connection.start(queue: queue)
        queue.async { self.heard() }
    }

    /// The other end has proven itself: hidden states may come.
    func admit() {
        queue.async { self.most = mostBytes }
    }

    /// From any thread; a send that fails ends the connection, and who receives hears of it.
    func send(_ message: Message) {
        send(encode(message))
    }

    func send(_ data: Data) {
        connection.send(
            content: data, contentContext: Self.binary, isComplete: true,
            completion: .contentProcessed { [connection] error in
                if error != nil { connection.cancel() }
            })
    }

    /// Say why, if the other end still listens, and hang up.
    func refuse(_ failure: Failure) {
        connection.send(
            content: encode(.error(failure)), contentContext: Self.binary, isComplete: true,
            completion: .contentProcessed { [connection] _ in connection.cancel() })
    }

    func cancel() {
        queue.async { self.silence?.cancel() }
        // What was sent before still goes out.
        connection.send(content: nil, contentContext: .finalMessage, isComplete: true, completion: .idempotent)
        queue.asyncAfter(deadline: .now() + 1) { [connection] in connection.cancel() }
    }

    func receive() async throws -> Message {
        try decode(await receiveBytes())
    }

    func receiveBytes() async throws -> Data {
        try await withCheckedThrowingContinuation { continuation in
            connection.receiveMessage { [self] content, context, _, error in
                heard()  // in `queue`
                continuation.resume(with: Result { try Self.checked(content, context, error, most) })
            }
        }
    }

    private static func checked(
        _ content: Data?, _ context: NWConnection.ContentContext?, _ error: NWError?, _ most: Int
    ) throws -> Data {
        if let error { throw Lost(description: "the connection was lost: \(error)") }
        let metadata = context?.protocolMetadata(definition: NWProtocolWebSocket.definition)
        guard let content, let frame = metadata as? NWProtocolWebSocket.Metadata, frame.opcode != .close else {
            throw Lost(description: "the cluster hung up")
        }
        guard frame.opcode == .binary else { throw BadMessage("text; the protocol of tablets is binary") }
        guard content.count <= most else { throw BadMessage("\(content.count) bytes before any proof") }
        return content
    }

    private func heard() {
        silence?.cancel()
        let over = DispatchWorkItem { [connection] in connection.cancel() }
        silence = over
        queue.asyncAfter(deadline: .now() + silenceSeconds, execute: over)
    }

    private static var binary: NWConnection.ContentContext {
        let metadata = NWProtocolWebSocket.Metadata(opcode: .binary)
        return NWConnection.ContentContext(identifier: "message", metadata: [metadata])
    }
}
