/// All files of a package, and the stage.json that says what it computes. As packages.py.

import Foundation

public struct Listing: Decodable, Equatable, Sendable {
    public struct File: Decodable, Equatable, Sendable {
        public let path: String
        public let sha256: String
        public let size: UInt64
    }

    public let files: [File]
    public let stage: Stage

    public var sizeBytes: UInt64 { files.reduce(0) { $0 + $1.size } }
}

/// What an app needs of stage.json.
public struct Stage: Decodable, Equatable, Sendable {
    public let schema: Int
    public let hash: String
    public let format: String
    public let file: String
    public let layers: String
    public let width: Int
    public let context: Int
    public let lengths: [Int]
    public let last: Bool
}

public let manifestName = "stage.json"
public let manifestSchema = 1

/// The listing of these bytes. BadMessage for what is none, or would lead out of a folder.
public func readListing(_ data: Data) throws -> Listing {
    guard let listing = try? JSONDecoder().decode(Listing.self, from: data) else {
        throw BadMessage("a listing that cannot be read")
    }
    let names = listing.files.map { $0.path.lowercased() }
    guard Set(names).count == names.count, names.contains(manifestName), listing.files.allSatisfy({ isPlain($0.path) })
    else { throw BadMessage("a listing whose paths are none") }
    guard listing.stage.schema == manifestSchema else { throw BadMessage("a stage.json of another schema") }
    return listing
}

/// Whether it leads to a place in the folder and nowhere else.
func isPlain(_ path: String) -> Bool {
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    let strange = Set("\\:*?\"<>|")
    return parts.allSatisfy { part in
        !part.isEmpty && part != "." && part != ".."
            && part.allSatisfy { !strange.contains($0) && $0.unicodeScalars.allSatisfy { $0.value >= 32 } }
    }
}
