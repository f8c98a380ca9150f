import SwiftUI

/// All there is to see: what the tablet does, where it is found, its key.
struct TabletView: View {
    let tablet: Tablet

    var body: some View {
        NavigationStack {
            Form {
                Section("State") { StateView(tablet: tablet) }
                KeySection(tablet: tablet)
                Section("Where the cluster finds it") {
                    ForEach(tablet.addresses, id: \.self) { address in
                        LabeledContent("Address", value: "\(address):\(tablet.port.description)")
                    }
                    TextField(
                        "Port", value: Binding(get: { Int(tablet.port) }, set: setPort),
                        format: .number.grouping(.never)
                    )
                    .keyboardType(.numberPad)
                }
            }
            .navigationTitle("smolcluster")
        }
    }

    private func setPort(_ number: Int) {
        guard let port = UInt16(exactly: number), port >= 1024 else { return }
        tablet.listen(on: port)
    }
}

private struct StateView: View {
    let tablet: Tablet

    var body: some View {
        switch tablet.state {
        case .noKey: Label("It has no key yet", systemImage: "key")
        case .off: Label("Not listening", systemImage: "pause.circle")
        case .listening: Label("Waiting for the cluster", systemImage: "antenna.radiowaves.left.and.right")
        case .fetching(let done, let all):
            ProgressView(value: Double(done), total: Double(max(all, 1))) { Text("Loading layers \(tablet.layers)") }
        case .loading: Label("Core ML prepares layers \(tablet.layers)", systemImage: "gearshape.2")
        case .computing: Label("Layers \(tablet.layers) of \(tablet.model)", systemImage: "checkmark.circle")
        case .failed(let why): Label(why, systemImage: "exclamationmark.triangle")
        }
        if !tablet.peer.isEmpty { LabeledContent("Cluster", value: tablet.peer) }
        if tablet.tokens > 0 {
            LabeledContent("Tokens", value: tablet.tokens.formatted())
            let speed = tablet.tokensPerSecond.formatted(.number.precision(.fractionLength(1)))
            LabeledContent("Speed", value: "\(speed) /s")
        }
        if !tablet.lastEnd.isEmpty { LabeledContent("The last connection", value: tablet.lastEnd) }
    }
}
