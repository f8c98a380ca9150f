import SwiftUI

@main
struct SmolclusterApp: App {
    @State private var tablet = Tablet()
    @Environment(\.scenePhase) private var phase

    var body: some Scene {
        WindowGroup {
            TabletView(tablet: tablet)
                // The camera found the cluster's code: smolcluster://HOST:PORT/#run=...&key=...
                .onOpenURL { link in _ = tablet.takeKey(link.absoluteString) }
        }
        .onChange(of: phase, initial: true) { _, now in
            // iOS stops the app's sockets in the background: the cluster is told before they go silent.
            switch now {
            case .active: tablet.start()
            case .background: tablet.leave("the app went to the background")
            default: break
            }
        }
    }
}
