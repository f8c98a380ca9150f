/// Which sessions are open and how far they are: what the protocol wants of a FORWARD before anything is computed.

public let mostSessions = 16

/// `Cache` is what holds a session's keys and values.
public struct Sessions<Cache> {
    private struct Session {
        let cache: Cache
        let capacity: UInt32
        var length: UInt32 = 0
    }

    private var sessions: [UInt64: Session] = [:]
    private let context: Int
    private let width: Int

    public init(context: Int, width: Int) {
        self.context = context
        self.width = width
    }

    public var count: Int { sessions.count }

    /// One that has no room is unknown to its first FORWARD, which is answered.
    public mutating func open(_ open: Open, cache: () -> Cache) {
        sessions[open.session] = nil
        guard sessions.count < mostSessions, open.capacity >= 1, Int(open.capacity) <= context else { return }
        sessions[open.session] = Session(cache: cache(), capacity: open.capacity)
    }

    public mutating func forget(_ session: UInt64) {
        sessions[session] = nil
    }

    /// The session's cache, which is taken to hold the tokens of `hidden` from now on. Failure: it has ended.
    public mutating func take(_ hidden: Hidden) throws -> Cache {
        guard var session = sessions[hidden.session] else {
            throw failure(hidden, .unknownSession, "it is not open here")
        }
        guard Int(hidden.width) == width else {
            throw failure(hidden, .failed, "hidden states are \(hidden.width) wide, not \(width)")
        }
        guard hidden.position == session.length else {
            throw failure(hidden, .outOfOrder, "position \(hidden.position) after \(session.length) tokens")
        }
        let end = UInt64(hidden.position) + UInt64(hidden.tokens)
        guard end <= UInt64(session.capacity) else {
            throw failure(hidden, .full, "\(end) tokens, with room for \(session.capacity)")
        }
        session.length = UInt32(end)
        sessions[hidden.session] = session
        return session.cache
    }

    /// What to say of a FORWARD that failed; its session has ended.
    public mutating func failure(_ hidden: Hidden, _ code: Code, _ reason: String) -> Failure {
        forget(hidden.session)
        return Failure(code, reason, request: hidden.request, session: hidden.session)
    }
}

/// How many tokens go at once: a program takes only these `lengths`, the longest that fits first.
public func pieces(of tokens: Int, lengths: [Int]) -> [Int] {
    var left = tokens
    var found: [Int] = []
    for length in lengths.sorted(by: >) where length > 0 {
        while left >= length {
            found.append(length)
            left -= length
        }
    }
    return found
}
