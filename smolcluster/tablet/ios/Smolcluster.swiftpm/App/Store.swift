/// What the app keeps: key and certificate in the keychain, the port in its settings.

import Foundation
import Network
import Security

final class Store {
    private static let service = "org.smolcluster.tablet"

    var port: UInt16 {
        get { UInt16(exactly: UserDefaults.standard.integer(forKey: "port")).flatMap { $0 == 0 ? nil : $0 } ?? 8000 }
        set { UserDefaults.standard.set(Int(newValue), forKey: "port") }
    }

    /// The tablet key of a run.
    var key: Data? {
        get { read("key") }
        set { write("key", newValue) }
    }

    /// What this device shows as a TLS server, once a .p12 was taken in.
    var identity: sec_identity_t? {
        guard let file = read("identity"), let password = read("password"),
            let identity = try? imported(file, String(decoding: password, as: UTF8.self))
        else { return nil }
        return sec_identity_create(identity)
    }

    func takeIdentity(_ file: Data, password: String) throws {
        _ = try imported(file, password)
        write("identity", file)
        write("password", Data(password.utf8))
    }

    func forgetIdentity() {
        write("identity", nil)
        write("password", nil)
    }

    private func imported(_ file: Data, _ password: String) throws -> SecIdentity {
        var items: CFArray?
        let options = [kSecImportExportPassphrase as String: password] as CFDictionary
        let status = SecPKCS12Import(file as CFData, options, &items)
        guard status == errSecSuccess, let first = (items as? [[String: Any]])?.first,
            let identity = first[kSecImportItemIdentity as String]
        else { throw NSError(domain: NSOSStatusErrorDomain, code: Int(status)) }
        // The dictionary's value under this key is an identity, always.
        return identity as! SecIdentity
    }

    private func query(_ name: String) -> [String: Any] {
        [
            kSecClass as String: kSecClassGenericPassword, kSecAttrService as String: Self.service,
            kSecAttrAccount as String: name,
        ]
    }

    private func read(_ name: String) -> Data? {
        var found: CFTypeRef?
        let query = self.query(name).merging([kSecReturnData as String: true]) { $1 }
        return SecItemCopyMatching(query as CFDictionary, &found) == errSecSuccess ? found as? Data : nil
    }

    private func write(_ name: String, _ value: Data?) {
        SecItemDelete(query(name) as CFDictionary)
        guard let value else { return }
        let more: [String: Any] = [
            kSecValueData as String: value,
            kSecAttrAccessible as String: kSecAttrAccessibleWhenUnlockedThisDeviceOnly,
        ]
        SecItemAdd(query(name).merging(more) { $1 } as CFDictionary, nil)
    }
}
