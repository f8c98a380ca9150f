/// What the screen shows, and the one server behind it.

import Observation
import SwiftUI
import TabletProtocol
import UIKit

@MainActor @Observable
final class Tablet {
    enum State: Equatable {
        case noKey
        case off
        case listening
        case fetching(done: UInt64, of: UInt64)
        case loading
        case computing
        case failed(String)
    }

    private(set) var state: State = .off
    private(set) var peer = ""
    private(set) var layers = ""
    private(set) var model = ""
    private(set) var tokens = 0
    private(set) var tokensPerSecond = 0.0
    private(set) var lastEnd = ""

    private(set) var port: UInt16 = Store().port
    /// Where the cluster finds this device, for the inventory; as of when it was last in front.
    private(set) var addresses: [String] = []

    private let store = Store()
    private var server: Server?

    func start() {
        addresses = ownAddresses()
        guard server == nil else { return }
        guard let key = store.key else {
            state = .noKey
            return
        }
        let name = UIDevice.current.name
        let me = Me(name: name, device: "\(UIDevice.current.model) (\(machineName()))", key: key)
        let made = Server(me: me, port: port) { [weak self] event in
            Task { @MainActor [weak self] in self?.show(event) }
        }
        do {
            try made.start()
            server = made
            state = .listening
            UIApplication.shared.isIdleTimerDisabled = true
        } catch {
            state = .failed("Port \(port) cannot be listened on: \(error.localizedDescription)")
        }
    }

    func leave(_ why: String) {
        server?.stop(Failure(.leaving, why))
        server = nil
        state = store.key == nil ? .noKey : .off
        UIApplication.shared.isIdleTimerDisabled = false
    }

    func restart() {
        leave("its settings changed")
        start()
    }

    func listen(on number: UInt16) {
        store.port = number
        port = number
        restart()
    }

    /// False where the text holds no key.
    func takeKey(_ text: String) -> Bool {
        guard let key = keyIn(text) else { return false }
        store.key = key
        restart()
        return true
    }

    func forgetKey() {
        store.key = nil
        leave("its key was taken away")
    }

    private func show(_ event: Event) {
        switch event {
        case .listening: state = .listening
        case .cannotListen(let why): state = .failed(why)
        case .proven(let name): peer = name
        case .assigned(let assign):
            layers = assign.layers
            model = assign.model
            tokens = 0
        case .fetching(let done, let all): state = .fetching(done: done, of: all)
        case .loading: state = .loading
        case .ready: state = .computing
        case .computed(let count, let seconds):
            tokens += count
            tokensPerSecond = seconds > 0 ? Double(count) / seconds : 0
        case .ended(let why):
            peer = ""
            lastEnd = why
            if server != nil { state = .listening }
        }
    }
}
