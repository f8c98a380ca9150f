/// Both ends prove that they know the key of this run's tablets. As greeting.py. CryptoKit is Apple's: on Linux the
/// rest of this package is built and tested without it.

#if canImport(CryptoKit)
import CryptoKit
import Foundation

public let keyLabel = "smolcluster tablet key"
public let diallerLabel = "smolcluster tablet dialler"
public let listenerLabel = "smolcluster tablet listener"

/// The key of a run's tablets from the run's secret. A tablet is given the key only; tests make it.
public func tabletKey(secret: Data) -> Data {
    Data(HMAC<SHA256>.authenticationCode(for: Data(keyLabel.utf8), using: SymmetricKey(data: secret)))
}

/// HMAC-SHA256 over the label and both greetings word for word, each after its length in 8 bytes.
public func proof(key: Data, label: String, hello: Data, challenge: Data) -> Data {
    Data(HMAC<SHA256>.authenticationCode(for: said(label, hello, challenge), using: SymmetricKey(data: key)))
}

/// Whether that is the proof, in a time that tells nothing of it.
public func proves(_ digest: Data, key: Data, label: String, hello: Data, challenge: Data) -> Bool {
    let all = said(label, hello, challenge)
    return HMAC<SHA256>.isValidAuthenticationCode(digest, authenticating: all, using: SymmetricKey(data: key))
}

private func said(_ label: String, _ hello: Data, _ challenge: Data) -> Data {
    var writer = Writer()
    writer.bytes(Data(label.utf8))
    for part in [hello, challenge] {
        writer.u64(UInt64(part.count))
        writer.bytes(part)
    }
    return writer.data
}
#endif
