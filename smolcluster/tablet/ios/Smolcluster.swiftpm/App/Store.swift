/// What the app keeps: the key in the keychain, the port in its settings.

import Foundation
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
