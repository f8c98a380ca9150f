/// The messages that are numbers in a fixed order, and some of them a tail: text, bytes or hidden states. As frames.py.

import Foundation

public struct Fetch: Equatable, Sendable {
    public var request: UInt32
    public var format: String
    public var path: String
    public var offset: UInt64
    public var most: UInt32

    public init(request: UInt32, format: String, path: String, offset: UInt64, most: UInt32) {
        self.request = request
        self.format = format
        self.path = path
        self.offset = offset
        self.most = most
    }

    init(_ reader: inout Reader) throws {
        request = try reader.u32()
        offset = try reader.u64()
        most = try reader.u32()
        format = try reader.text(32)
        path = try reader.text(1000)
    }

    func write(_ writer: inout Writer) {
        writer.u32(request)
        writer.u64(offset)
        writer.u32(most)
        writer.text(format)
        writer.text(path)
    }
}

public struct Piece: Equatable, Sendable {
    public var request: UInt32
    public var offset: UInt64
    public var size: UInt64
    public var data: Data

    public init(request: UInt32, offset: UInt64, size: UInt64, data: Data) {
        self.request = request
        self.offset = offset
        self.size = size
        self.data = data
    }

    init(_ reader: inout Reader) throws {
        request = try reader.u32()
        offset = try reader.u64()
        size = try reader.u64()
        data = reader.rest()
        guard offset <= size, UInt64(data.count) <= size - offset else {
            throw BadMessage("\(data.count) bytes at \(offset) of a file of \(size)")
        }
    }

    func write(_ writer: inout Writer) {
        writer.u32(request)
        writer.u64(offset)
        writer.u64(size)
        writer.bytes(data)
    }
}

public struct Open: Equatable, Sendable {
    public var session: UInt64
    public var capacity: UInt32

    public init(session: UInt64, capacity: UInt32) {
        self.session = session
        self.capacity = capacity
    }

    init(_ reader: inout Reader) throws {
        capacity = try reader.u32()
        session = try reader.u64()
    }

    func write(_ writer: inout Writer) {
        writer.u32(capacity)
        writer.u64(session)
    }
}

public struct Forget: Equatable, Sendable {
    public var session: UInt64

    public init(session: UInt64) { self.session = session }

    init(_ reader: inout Reader) throws {
        try reader.reserved(4)
        session = try reader.u64()
    }

    func write(_ writer: inout Writer) {
        writer.reserved(4)
        writer.u64(session)
    }
}

/// `values`: tokens x width numbers, as they travel, of a session's tokens from `position` on.
public struct Hidden: Equatable, Sendable {
    public var request: UInt32
    public var session: UInt64
    public var position: UInt32
    public var tokens: UInt32
    public var width: UInt32
    public var number: Numbers
    public var values: Data

    public init(
        request: UInt32, session: UInt64, position: UInt32, tokens: UInt32, width: UInt32, number: Numbers, values: Data
    ) {
        self.request = request
        self.session = session
        self.position = position
        self.tokens = tokens
        self.width = width
        self.number = number
        self.values = values
    }

    init(_ reader: inout Reader) throws {
        request = try reader.u32()
        session = try reader.u64()
        position = try reader.u32()
        tokens = try reader.u32()
        width = try reader.u32()
        let kind = try reader.u8()
        try reader.reserved(3)
        guard let numbers = Numbers(rawValue: kind) else { throw BadMessage("numbers of kind \(kind)") }
        number = numbers
        values = reader.rest()
        // Of numbers below 2^32 two products, neither of which overflows 64 bits but both together might.
        let cells = UInt64(tokens) * UInt64(width)
        guard cells > 0, cells <= UInt64(mostBytes), UInt64(values.count) == cells * UInt64(numbers.size) else {
            throw BadMessage("\(values.count) bytes are no \(tokens) x \(width)")
        }
    }

    func write(_ writer: inout Writer) {
        writer.u32(request)
        writer.u64(session)
        writer.u32(position)
        writer.u32(tokens)
        writer.u32(width)
        writer.u8(number.rawValue)
        writer.reserved(3)
        writer.bytes(values)
    }
}

public struct Failure: Error, Equatable, Sendable {
    public var code: Code
    public var reason: String
    public var request: UInt32
    public var session: UInt64

    public init(_ code: Code, _ reason: String, request: UInt32 = 0, session: UInt64 = 0) {
        self.code = code
        self.reason = reason
        self.request = request
        self.session = session
    }

    init(_ reader: inout Reader) throws {
        request = try reader.u32()
        session = try reader.u64()
        let number = try reader.u16()
        guard let known = Code(rawValue: number) else { throw BadMessage("code \(number)") }
        code = known
        reason = try reader.text(mostReason)
    }

    func write(_ writer: inout Writer) {
        writer.u32(request)
        writer.u64(session)
        writer.u16(code.rawValue)
        writer.text(shortened(reason))
    }
}

/// At most `mostReason` bytes, and no half letter.
private func shortened(_ reason: String) -> String {
    var text = reason[...]
    while text.utf8.count > mostReason { text = text.dropLast() }
    return String(text)
}
