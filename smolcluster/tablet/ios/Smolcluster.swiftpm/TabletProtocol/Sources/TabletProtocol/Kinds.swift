/// The numbers of the protocol: its version, the kinds of message, why something fails, how much is most. As kinds.py.

public let version: UInt8 = 1
public let magic: [UInt8] = [0x53, 0x54]
/// Before a proof, and for every message that carries neither hidden states nor a piece of a file.
public let mostSmall = 16 << 10
public let mostBytes = 64 << 20
public let mostPiece = 1 << 20
public let mostListing = 1 << 20
public let mostReason = 1000
public let proofBytes = 32

/// The second number of a message.
public enum Kind: UInt8, CaseIterable, Sendable {
    case hello = 1
    case challenge = 2
    case proof = 3
    case welcome = 4
    case assign = 5
    case ready = 6
    case fetch = 7
    case piece = 8
    case open = 16
    case forward = 17
    case result = 18
    case forget = 19
    case ping = 32
    case pong = 33
    case error = 34

    /// What a message of this kind may have at most, all of it.
    public var most: Int {
        switch self {
        case .forward, .result: mostBytes
        case .piece: mostPiece + 24
        default: mostSmall
        }
    }
}

/// Why something was not done. Those from 16 on end a session, the others the connection.
public enum Code: UInt16, CaseIterable, Sendable {
    case version = 1
    case refused = 2
    case wrongStage = 3
    case badMessage = 4
    case leaving = 5
    case noFile = 6
    case unknownSession = 16
    case outOfOrder = 17
    case full = 18
    case failed = 19
}

/// What hidden states travel as.
public enum Numbers: UInt8, CaseIterable, Sendable {
    case fp32 = 0
    case fp16 = 1

    public var size: Int { self == .fp32 ? 4 : 2 }
}
