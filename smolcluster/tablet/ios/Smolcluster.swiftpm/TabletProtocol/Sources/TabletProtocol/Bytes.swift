/// Numbers and texts to and from bytes, little-endian. Nothing is believed before it is there.

import Foundation

/// Bytes that are no message of this protocol.
public struct BadMessage: LocalizedError, Equatable, CustomStringConvertible {
    public let description: String
    public let code: Code

    public var errorDescription: String? { description }

    public init(_ description: String, _ code: Code = .badMessage) {
        self.description = description
        self.code = code
    }
}

struct Writer {
    private(set) var data = Data()

    mutating func u8(_ value: UInt8) { data.append(value) }
    mutating func u16(_ value: UInt16) { number(value) }
    mutating func u32(_ value: UInt32) { number(value) }
    mutating func u64(_ value: UInt64) { number(value) }
    mutating func reserved(_ count: Int) { data.append(Data(count: count)) }
    mutating func bytes(_ more: Data) { data.append(more) }

    /// After its length in two bytes.
    mutating func text(_ text: String) {
        let words = Data(text.utf8)
        u16(UInt16(words.count))
        bytes(words)
    }

    private mutating func number<Number: FixedWidthInteger>(_ value: Number) {
        withUnsafeBytes(of: value.littleEndian) { data.append(contentsOf: $0) }
    }
}

struct Reader {
    private var left: Data

    init(_ data: Data) { left = data }

    mutating func u8() throws -> UInt8 { try number() }
    mutating func u16() throws -> UInt16 { try number() }
    mutating func u32() throws -> UInt32 { try number() }
    mutating func u64() throws -> UInt64 { try number() }

    mutating func reserved(_ count: Int) throws {
        guard try bytes(count).allSatisfy({ $0 == 0 }) else { throw BadMessage("its reserved bytes are not zero") }
    }

    mutating func bytes(_ count: Int) throws -> Data {
        guard count <= left.count else { throw BadMessage("\(left.count) bytes where \(count) were due") }
        let taken = Data(left.prefix(count))
        left = left.dropFirst(count)
        return taken
    }

    /// All that is left.
    mutating func rest() -> Data {
        let taken = Data(left)
        left = Data()
        return taken
    }

    mutating func text(_ most: Int) throws -> String {
        let length = Int(try u16())
        guard length <= most else { throw BadMessage("a text of \(length) bytes") }
        guard let text = String(data: try bytes(length), encoding: .utf8) else { throw BadMessage("no text in UTF-8") }
        return text
    }

    func end() throws {
        guard left.isEmpty else { throw BadMessage("\(left.count) bytes too many") }
    }

    private mutating func number<Number: FixedWidthInteger>() throws -> Number {
        try bytes(MemoryLayout<Number>.size).reversed().reduce(0) { $0 << 8 | Number(truncatingIfNeeded: $1) }
    }
}
