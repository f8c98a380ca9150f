/// One proven connection, from ASSIGN on. Whoever reads here computes nothing: signs of life are answered at once.

import Foundation
import TabletProtocol

struct Serving {
    static let format = "coreml"

    let channel: Channel
    let device: String
    let show: @Sendable (Event) -> Void

    /// Until the connection ends, which is an error.
    func run() async throws {
        let assign = try await assigned()
        show(.assigned(assign))
        guard let wanted = assign.packages[Self.format] else {
            throw Failure(.wrongStage, "layers \(assign.layers) are not assigned as \(Self.format)")
        }
        let folder = try await Fetching(channel: channel, format: Self.format, show: show).package(wanted)
        show(.loading)
        let work = Work(channel: channel, assign: assign, show: show)
        let loading = Task { [device, channel] in
            do {
                try await work.load(folder, wanted: wanted, device: device)
            } catch let failure as Failure {
                channel.refuse(failure)
            } catch {
                // iOS may have emptied a part of the caches: the next connection fetches it anew.
                try? FileManager.default.removeItem(at: folder)
                channel.refuse(Failure(.wrongStage, "Core ML does not load the package: \(error.localizedDescription)"))
            }
        }
        defer { loading.cancel() }
        while true {
            switch try await channel.receive() {
            case .ping(let number): channel.send(.pong(number))
            case .pong: break
            case .open(let open): work.open(open)
            case .forget(let forget): work.forget(forget)
            case .forward(let hidden): work.forward(hidden)
            case .error(let failure): throw Lost(description: "the cluster said: \(failure.reason)")
            case let other: throw BadMessage("\(other.kind), which is no question")
            }
        }
    }

    private func assigned() async throws -> Assign {
        while true {
            switch try await channel.receive() {
            case .assign(let assign): return assign
            case .ping(let number): channel.send(.pong(number))
            case .error(let failure): throw Lost(description: "the cluster said: \(failure.reason)")
            case let other: throw BadMessage("\(other.kind) where ASSIGN was due")
            }
        }
    }
}
