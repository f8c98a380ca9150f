/// One message, and its bytes: "ST" · version · kind · what the kind has. As messages.py; documentation/tablet.md.

import Foundation

public enum Message: Equatable, Sendable {
    case hello(Greeting)
    case challenge(Greeting)
    case proof(Data)
    case welcome(Data)
    case assign(Assign)
    case ready(Ready)
    case fetch(Fetch)
    case piece(Piece)
    case open(Open)
    case forward(Hidden)
    case result(Hidden)
    case forget(Forget)
    case ping(UInt32)
    case pong(UInt32)
    case error(Failure)

    public var kind: Kind {
        switch self {
        case .hello: .hello
        case .challenge: .challenge
        case .proof: .proof
        case .welcome: .welcome
        case .assign: .assign
        case .ready: .ready
        case .fetch: .fetch
        case .piece: .piece
        case .open: .open
        case .forward: .forward
        case .result: .result
        case .forget: .forget
        case .ping: .ping
        case .pong: .pong
        case .error: .error
        }
    }
}

public func encode(_ message: Message) -> Data {
    var writer = Writer()
    writer.bytes(Data(magic))
    writer.u8(version)
    writer.u8(message.kind.rawValue)
    switch message {
    case .hello(let greeting), .challenge(let greeting): writer.bytes(json(greeting))
    case .proof(let digest), .welcome(let digest): writer.bytes(digest)
    case .assign(let assign): writer.bytes(json(assign))
    case .ready(let ready): writer.bytes(json(ready))
    case .fetch(let fetch): fetch.write(&writer)
    case .piece(let piece): piece.write(&writer)
    case .open(let open): open.write(&writer)
    case .forward(let hidden), .result(let hidden): hidden.write(&writer)
    case .forget(let forget): forget.write(&writer)
    case .ping(let number), .pong(let number): writer.u32(number)
    case .error(let failure): failure.write(&writer)
    }
    return writer.data
}

/// The message of these bytes. BadMessage when they are none, or of another version.
public func decode(_ data: Data) throws -> Message {
    var reader = Reader(data)
    guard try Array(reader.bytes(2)) == magic else { throw BadMessage("not the protocol of tablets") }
    let theirs = try reader.u8()
    guard theirs == version else { throw BadMessage("version \(theirs), this app has \(version)", .version) }
    let number = try reader.u8()
    guard let kind = Kind(rawValue: number) else { throw BadMessage("kind \(number)") }
    guard data.count <= kind.most else { throw BadMessage("\(data.count) bytes; \(kind.most) are the most") }
    let message = try body(kind, &reader)
    try reader.end()
    return message
}

private func body(_ kind: Kind, _ reader: inout Reader) throws -> Message {
    switch kind {
    case .hello: return .hello(try greeting(&reader))
    case .challenge: return .challenge(try greeting(&reader))
    case .proof: return .proof(try reader.bytes(proofBytes))
    case .welcome: return .welcome(try reader.bytes(proofBytes))
    case .assign:
        let assign: Assign = try words(reader.rest(), Set(Assign.CodingKeys.allCases.map(\.rawValue)))
        try assign.check()
        return .assign(assign)
    case .ready: return .ready(try words(reader.rest(), ["device", "format", "hash", "layers"]))
    case .fetch: return .fetch(try Fetch(&reader))
    case .piece: return .piece(try Piece(&reader))
    case .open: return .open(try Open(&reader))
    case .forward: return .forward(try Hidden(&reader))
    case .result: return .result(try Hidden(&reader))
    case .forget: return .forget(try Forget(&reader))
    case .ping: return .ping(try reader.u32())
    case .pong: return .pong(try reader.u32())
    case .error: return .error(try Failure(&reader))
    }
}

private func greeting(_ reader: inout Reader) throws -> Greeting {
    let greeting: Greeting = try words(reader.rest(), ["name", "nonce", "role", "run"])
    try greeting.check()
    return greeting
}
