/// The messages that are JSON: greetings, assignment, and what the tablet says of itself.

import Foundation

public enum Role: String, Codable, Sendable { case cluster, tablet }

/// Who says so, of which run; `nonce`: 32 random bytes in lower-case hex.
public struct Greeting: Codable, Equatable, Sendable {
    public var name: String
    public var nonce: String
    public var role: Role
    public var run: String

    public init(name: String, nonce: String, role: Role, run: String) {
        self.name = name
        self.nonce = nonce
        self.role = role
        self.run = run
    }

    func check() throws {
        guard nonce.utf8.count == 64, nonce.utf8.allSatisfy({ hexDigits.contains($0) }) else {
            throw BadMessage("a nonce that is none")
        }
    }
}

/// The layers, and by format the hash of the exported stage that computes them.
public struct Assign: Codable, Equatable, Sendable {
    public var context: Int
    public var dtype: String
    public var last: Bool
    public var layers: String
    public var model: String
    public var outWidth: Int
    public var packages: [String: String]
    public var width: Int

    enum CodingKeys: String, CodingKey, CaseIterable {
        case context, dtype, last, layers, model
        case outWidth = "out_width"
        case packages, width
    }

    public init(
        context: Int, dtype: String, last: Bool, layers: String, model: String, outWidth: Int,
        packages: [String: String], width: Int
    ) {
        self.context = context
        self.dtype = dtype
        self.last = last
        self.layers = layers
        self.model = model
        self.outWidth = outWidth
        self.packages = packages
        self.width = width
    }

    /// What results travel as.
    public var numbers: Numbers { dtype == "fp16" ? .fp16 : .fp32 }

    func check() throws {
        guard dtype == "fp16" || dtype == "fp32", width > 0, outWidth > 0, context > 0, packages.count <= 8 else {
            throw BadMessage("an assignment that is none")
        }
    }
}

/// The tablet has the stage of that hash, in that format, and computes.
public struct Ready: Codable, Equatable, Sendable {
    public var device: String
    public var format: String
    public var hash: String
    public var layers: String

    public init(device: String, format: String, hash: String, layers: String) {
        self.device = device
        self.format = format
        self.hash = hash
        self.layers = layers
    }
}

let hexDigits = Set("0123456789abcdef".utf8)

/// Sorted and without spaces, as the golden bytes are.
func json<Words: Encodable>(_ words: Words) -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // Texts, numbers and dictionaries of texts: none of them can fail.
    return try! encoder.encode(words)
}

/// An object with exactly these keys.
func words<Words: Decodable>(_ data: Data, _ keys: Set<String>) throws -> Words {
    do {
        let object = try JSONSerialization.jsonObject(with: data) as? [String: Any]
        guard let object, Set(object.keys) == keys else { throw BadMessage("JSON with other keys") }
        return try JSONDecoder().decode(Words.self, from: data)
    } catch let error as BadMessage {
        throw error
    } catch {
        throw BadMessage("JSON that cannot be read")
    }
}
