import TabletProtocol

/// What happens to a server, for the screen.
enum Event: Sendable {
    case listening
    case cannotListen(String)
    case proven(String)
    case assigned(Assign)
    case fetching(done: UInt64, of: UInt64)
    case loading
    case ready
    case computed(tokens: Int, seconds: Double)
    case ended(String)
}
