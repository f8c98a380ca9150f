/// What one connection computes: in its own queue, in the order in which it was asked.

import CoreML
import Foundation
import TabletProtocol

final class Work: @unchecked Sendable {
    private let channel: Channel
    private let assign: Assign
    private let show: @Sendable (Event) -> Void
    private let queue = DispatchQueue(label: "smolcluster.work", qos: .userInitiated)
    // Of `queue`.
    private var layers: CoreMLLayers?
    private var sessions: Sessions<MLState>

    init(channel: Channel, assign: Assign, show: @escaping @Sendable (Event) -> Void) {
        self.channel = channel
        self.assign = assign
        self.show = show
        sessions = Sessions(context: assign.context, width: assign.width)
    }

    /// Load the layers and say so. Failure 3 where they are not those that were assigned.
    func load(_ folder: URL, wanted: String, device: String) async throws {
        let loaded = try await CoreMLLayers(folder)
        let stage = loaded.stage
        guard stage.hash == wanted, stage.layers == assign.layers, stage.width == assign.width else {
            throw Failure(.wrongStage, "the package has layers \(stage.layers), not \(assign.layers)")
        }
        queue.async { [self] in
            layers = loaded
            sessions = Sessions(context: min(assign.context, stage.context), width: assign.width)
            channel.send(
                .ready(
                    Ready(device: device, format: Serving.format, hash: stage.hash, layers: stage.layers)))
            show(.ready)
        }
    }

    func open(_ open: Open) {
        queue.async { [self] in
            guard let layers else { return }
            sessions.open(open) { layers.newState() }
        }
    }

    func forget(_ forget: Forget) {
        queue.async { [self] in sessions.forget(forget.session) }
    }

    func forward(_ hidden: Hidden) {
        queue.async { [self] in
            guard let layers else { return }
            do {
                let state = try sessions.take(hidden)
                let begun = ContinuousClock.now
                let result = try layers.forward(hidden, state, assign.numbers)
                channel.send(.result(result))
                let took = ContinuousClock.now - begun
                show(.computed(tokens: Int(hidden.tokens), seconds: took / .seconds(1)))
            } catch let failure as Failure {
                channel.send(.error(failure))
            } catch {
                channel.send(.error(sessions.failure(hidden, .failed, error.localizedDescription)))
            }
        }
    }
}
