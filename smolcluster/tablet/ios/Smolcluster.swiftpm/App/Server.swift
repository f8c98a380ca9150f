/// Listens, and serves one cluster at a time: of two that have proven themselves the newer one counts.

import Foundation
import Network
import TabletProtocol

/// What this end says of itself, and the key that proves it.
struct Me: Sendable {
    let name: String
    let device: String
    let key: Data
}

final class Server: @unchecked Sendable {
    /// How many strangers may be at their greeting at once.
    private static let strangers = 8

    private let me: Me
    private let port: UInt16
    private let show: @Sendable (Event) -> Void
    private let queue = DispatchQueue(label: "smolcluster.server")
    private var listener: NWListener?
    // Of `queue`.
    private var greeting: [ObjectIdentifier: Channel] = [:]
    private var current: Channel?

    init(me: Me, port: UInt16, show: @escaping @Sendable (Event) -> Void) {
        self.me = me
        self.port = port
        self.show = show
    }

    func start() throws {
        guard let number = NWEndpoint.Port(rawValue: port) else { throw NWError.posix(.EINVAL) }
        let made = try NWListener(using: parameters(), on: number)
        made.stateUpdateHandler = { [show, port] state in
            switch state {
            case .ready: show(.listening)
            case .failed(let error): show(.cannotListen("Port \(port) cannot be listened on: \(error)"))
            default: break
            }
        }
        made.newConnectionHandler = { [weak self] connection in self?.comeIn(connection) }
        made.start(queue: queue)
        listener = made
    }

    /// Tell the cluster why, and stop listening.
    func stop(_ why: Failure) {
        listener?.cancel()
        queue.async { [self] in
            current?.refuse(why)
            greeting.values.forEach { $0.cancel() }
            current = nil
            greeting = [:]
        }
    }

    private func parameters() -> NWParameters {
        let tcp = NWProtocolTCP.Options()
        tcp.noDelay = true
        let parameters = NWParameters(tls: nil, tcp: tcp)
        parameters.allowLocalEndpointReuse = true
        parameters.prohibitedInterfaceTypes = [.cellular]
        let webSocket = NWProtocolWebSocket.Options()
        webSocket.autoReplyPing = true
        webSocket.maximumMessageSize = mostBytes
        parameters.defaultProtocolStack.applicationProtocols.insert(webSocket, at: 0)
        return parameters
    }

    /// In `queue`.
    private func comeIn(_ connection: NWConnection) {
        guard greeting.count < Self.strangers else {
            connection.cancel()
            return
        }
        let channel = Channel(connection)
        greeting[ObjectIdentifier(channel)] = channel
        channel.start()
        Task { [self] in
            let why = await serve(channel)
            channel.cancel()
            queue.async { [self] in
                greeting[ObjectIdentifier(channel)] = nil
                guard current === channel else { return }
                current = nil
                show(.ended(why))
            }
        }
    }

    /// Until it ends; why it did.
    private func serve(_ channel: Channel) async -> String {
        do {
            let hello = try await greetAsListener(channel, me)
            queue.async { [self] in
                greeting[ObjectIdentifier(channel)] = nil
                current?.cancel()
                current = channel
                show(.proven(hello.name))
            }
            try await Serving(channel: channel, device: me.device, show: show).run()
            return "ended"
        } catch let failure as Failure {
            channel.refuse(failure)
            return failure.reason
        } catch let bad as BadMessage {
            channel.refuse(Failure(bad.code, bad.description))
            return bad.description
        } catch {
            return "\(error)"
        }
    }
}
