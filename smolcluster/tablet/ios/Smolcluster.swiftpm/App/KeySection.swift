import SwiftUI

/// The key of a run: scanned from what the cluster shows, or typed.
struct KeySection: View {
    let tablet: Tablet
    @State private var text = ""
    @State private var isScanning = false
    @State private var isWrong = false

    var body: some View {
        Section {
            Button("Scan the code that the cluster shows", systemImage: "qrcode.viewfinder") { isScanning = true }
            SecureField("Link, or 64 digits of the key", text: $text)
                .autocorrectionDisabled()
                .textInputAutocapitalization(.never)
                .onSubmit { take(text) }
            if isWrong { Text("There is no key in that.").foregroundStyle(.red) }
            if tablet.state != .noKey { Button("Forget the key", role: .destructive) { tablet.forgetKey() } }
        } header: {
            Text("Key")
        } footer: {
            Text("Every run has its own. It stays in this device's keychain.")
        }
        .sheet(isPresented: $isScanning) {
            ScannerView { found in
                isScanning = false
                take(found)
            }
        }
    }

    private func take(_ found: String) {
        isWrong = !tablet.takeKey(found)
        if !isWrong { text = "" }
    }
}
