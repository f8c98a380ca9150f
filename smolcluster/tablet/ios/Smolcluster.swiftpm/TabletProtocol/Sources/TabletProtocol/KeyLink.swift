/// The key that a cluster shows: 64 hexadecimal digits, or a link (a QR code) whose fragment has them as `key=...`.

import Foundation

/// The 32 bytes of a key that was typed or scanned, or nil.
public func keyIn(_ text: String) -> Data? {
    let trimmed = text.trimmingCharacters(in: .whitespacesAndNewlines)
    guard let mark = trimmed.firstIndex(of: "#") else { return bytes(trimmed) }
    for part in trimmed[trimmed.index(after: mark)...].split(separator: "&") where part.hasPrefix("key=") {
        return bytes(String(part.dropFirst(4)))
    }
    return nil
}

private func bytes(_ digits: String) -> Data? {
    let digits = Array(digits.lowercased().utf8)
    guard digits.count == 2 * proofBytes, digits.allSatisfy({ hexDigits.contains($0) }) else { return nil }
    return Data(stride(from: 0, to: digits.count, by: 2).map { index in
        UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16)!
    })
}
