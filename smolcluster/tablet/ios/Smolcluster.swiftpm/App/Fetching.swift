/// How the app gets its package: file after file, resumed where it broke off, checked, kept by hash. As fetching.py.

import CryptoKit
import Foundation
import TabletProtocol

/// Asked for at once: some tenths of a second of a home's Wi-Fi, so that signs of life come through.
let pieceBytes: UInt32 = 256 << 10

struct Fetching {
    let channel: Channel
    let format: String
    let show: @Sendable (Event) -> Void

    /// The folder of the package of that hash: out of the caches, which iOS may empty, or from the cluster.
    func package(_ wanted: String) async throws -> URL {
        guard wanted.count == 64, wanted.allSatisfy({ "0123456789abcdef".contains($0) }) else {
            throw BadMessage("a hash that is none")
        }
        let folder = packagesFolder().appendingPathComponent(wanted)
        if FileManager.default.fileExists(atPath: folder.path) { return folder }
        var request: UInt32 = 0
        let listing = try await self.listing(&request)
        guard listing.stage.hash == wanted else {
            throw Failure(.wrongStage, "the cluster has the package \(listing.stage.hash.prefix(12))")
        }
        let partial = packagesFolder().appendingPathComponent("\(wanted).partial")
        var before: UInt64 = 0
        for file in listing.files {
            let path = partial.appendingPathComponent(file.path)
            try await fetch(file, to: path, &request) { done in
                show(.fetching(done: before + done, of: listing.sizeBytes))
            }
            before += file.size
        }
        // A rename: who finds the folder finds all of it.
        try FileManager.default.moveItem(at: partial, to: folder)
        return folder
    }

    private func listing(_ request: inout UInt32) async throws -> Listing {
        var data = Data()
        var size: UInt64 = 1
        while UInt64(data.count) < size {
            let piece = try await self.piece("", UInt64(data.count), &request)
            data.append(piece.data)
            size = piece.size
            guard size <= UInt64(mostListing) else { throw BadMessage("a listing of \(size) bytes") }
        }
        return try readListing(data)
    }

    private func fetch(
        _ file: Listing.File, to path: URL, _ request: inout UInt32, _ progress: (UInt64) -> Void
    ) async throws {
        let files = FileManager.default
        try files.createDirectory(at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
        if !files.fileExists(atPath: path.path) { files.createFile(atPath: path.path, contents: nil) }
        let handle = try FileHandle(forUpdating: path)
        defer { try? handle.close() }
        var done = try handle.seekToEnd()
        if done > file.size {
            try handle.truncate(atOffset: 0)
            done = 0
        }
        while done < file.size {
            let piece = try await self.piece(file.path, done, &request)
            guard piece.size == file.size else { throw BadMessage("\(file.path) has \(piece.size) bytes") }
            try handle.write(contentsOf: piece.data)
            done += UInt64(piece.data.count)
            progress(done)
        }
        guard try sha256(of: handle) == file.sha256 else {
            try handle.truncate(atOffset: 0)  // the next download begins it anew
            throw BadMessage("\(file.path) came with another hash than in its listing")
        }
    }

    /// The next bytes, at least one; PINGs that come before are answered.
    private func piece(_ path: String, _ offset: UInt64, _ request: inout UInt32) async throws -> Piece {
        request += 1
        channel.send(.fetch(Fetch(request: request, format: format, path: path, offset: offset, most: pieceBytes)))
        while true {
            switch try await channel.receive() {
            case .ping(let number): channel.send(.pong(number))
            case .error(let failure): throw Lost(description: "the cluster said: \(failure.reason)")
            case .piece(let piece):
                guard piece.request == request, piece.offset == offset, !piece.data.isEmpty else {
                    throw BadMessage("a piece that was not asked for")
                }
                return piece
            case let other: throw BadMessage("\(other.kind) where PIECE was due")
            }
        }
    }
}

/// Made where there is none.
func packagesFolder() -> URL {
    let folder = URL.cachesDirectory.appendingPathComponent("packages")
    try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    return folder
}

private func sha256(of handle: FileHandle) throws -> String {
    try handle.seek(toOffset: 0)
    var hash = SHA256()
    while let data = try handle.read(upToCount: 1 << 20), !data.isEmpty { hash.update(data: data) }
    return hash.finalize().map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
}
