import SwiftUI
import UniformTypeIdentifiers

/// The certificate that the cluster's authority signed for this device, with its key: a .p12 file.
struct IdentitySection: View {
    let tablet: Tablet
    @State private var isChoosing = false
    @State private var password = ""
    @State private var problem = ""

    var body: some View {
        Section {
            LabeledContent("Encrypted", value: tablet.isEncrypted ? "yes, with TLS" : "no")
            SecureField("Password of the .p12 file", text: $password)
            Button("Choose a .p12 file") { isChoosing = true }
            if tablet.isEncrypted { Button("Forget it", role: .destructive) { tablet.forgetIdentity() } }
            if !problem.isEmpty { Text(problem).foregroundStyle(.red) }
        } header: {
            Text("Certificate")
        } footer: {
            Text("Without one, what travels can be read and changed by others in the same network.")
        }
        .fileImporter(isPresented: $isChoosing, allowedContentTypes: [.pkcs12]) { chosen in
            take(chosen)
        }
    }

    private func take(_ chosen: Result<URL, any Error>) {
        do {
            let file = try chosen.get()
            let isOurs = file.startAccessingSecurityScopedResource()
            defer { if isOurs { file.stopAccessingSecurityScopedResource() } }
            try tablet.takeIdentity(Data(contentsOf: file), password: password)
            problem = ""
            password = ""
        } catch {
            problem = "That file cannot be read with that password: \(error.localizedDescription)"
        }
    }
}
