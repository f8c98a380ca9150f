/// An exported stage that Core ML has loaded. A session is an MLState: its keys and values stay in there.

import CoreML
import Foundation
import TabletProtocol

final class CoreMLLayers: @unchecked Sendable {
    let stage: Stage
    private let model: MLModel

    /// Of a package's folder. Compiles it, which takes seconds, unless that was done before.
    init(_ folder: URL) async throws {
        let manifest = try Data(contentsOf: folder.appendingPathComponent(manifestName))
        stage = try JSONDecoder().decode(Stage.self, from: manifest)
        guard stage.file == "stage.mlpackage" else { throw BadMessage("a package that is none for Core ML") }
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .cpuAndNeuralEngine
        let compiled = packagesFolder().appendingPathComponent("\(stage.hash).mlmodelc")
        if let known = try? await MLModel.load(contentsOf: compiled, configuration: configuration) {
            model = known
            return
        }
        // There is none, or one of another iOS.
        try? FileManager.default.removeItem(at: compiled)
        let made = try await MLModel.compileModel(at: folder.appendingPathComponent(stage.file))
        try FileManager.default.moveItem(at: made, to: compiled)
        model = try await MLModel.load(contentsOf: compiled, configuration: configuration)
    }

    func newState() -> MLState { model.makeState() }

    /// Rows for all tokens, or the last layers' logits after the last one.
    func forward(_ hidden: Hidden, _ state: MLState, _ numbers: Numbers) throws -> Hidden {
        let width = Int(hidden.width)
        let given = halves(hidden.values, hidden.number)
        var out: [Float16] = []
        var done = 0
        for count in pieces(of: Int(hidden.tokens), lengths: stage.lengths) {
            let rows = Array(given[done * width..<(done + count) * width])
            let found = try predict(rows, count, Int(hidden.position) + done, width, state)
            out = stage.last ? found : out + found
            done += count
        }
        let rows = stage.last ? 1 : Int(hidden.tokens)
        return Hidden(
            request: hidden.request, session: hidden.session, position: hidden.position, tokens: UInt32(rows),
            width: UInt32(out.count / rows), number: numbers, values: bytes(out, numbers))
    }

    private func predict(
        _ rows: [Float16], _ count: Int, _ position: Int, _ width: Int, _ state: MLState
    ) throws -> [Float16] {
        let positions = (position..<position + count).map { Int32($0) }
        let input = try MLDictionaryFeatureProvider(dictionary: [
            "hidden": MLMultiArray(MLShapedArray<Float16>(scalars: rows, shape: [1, count, width])),
            "positions": MLMultiArray(MLShapedArray<Int32>(scalars: positions, shape: [count])),
        ])
        let output = try model.prediction(from: input, using: state)
        guard let array = output.featureValue(for: "out")?.multiArrayValue else { throw BadMessage("no output") }
        // The Neural Engine may leave gaps between rows; a shaped array's scalars have none.
        return MLShapedArray<Float16>(converting: array).scalars
    }
}

private func halves(_ values: Data, _ numbers: Numbers) -> [Float16] {
    values.withUnsafeBytes { raw in
        (0..<raw.count / numbers.size).map { index -> Float16 in
            switch numbers {
            case .fp16: raw.loadUnaligned(fromByteOffset: 2 * index, as: Float16.self)
            case .fp32: Float16(raw.loadUnaligned(fromByteOffset: 4 * index, as: Float32.self))
            }
        }
    }
}

private func bytes(_ values: [Float16], _ numbers: Numbers) -> Data {
    switch numbers {
    case .fp16: values.withUnsafeBytes { Data($0) }
    case .fp32: values.map { Float32($0) }.withUnsafeBytes { Data($0) }
    }
}
