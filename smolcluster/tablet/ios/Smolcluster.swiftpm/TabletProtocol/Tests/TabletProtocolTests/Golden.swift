import Foundation

@testable import TabletProtocol

/// The bytes that the Python side is held to as well: tests/tablet/golden, eight folders above this file.
func golden(_ name: String) throws -> Data {
    var root = URL(fileURLWithPath: #filePath)
    for _ in 0..<8 { root.deleteLastPathComponent() }
    return try Data(contentsOf: root.appendingPathComponent("tests/tablet/golden/\(name).bin"))
}

let session: UInt64 = 0x0102_0304_0506_0708
let run = "20261129-1200-inference"
let halves = Data([0x00, 0x00, 0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38, 0xff, 0x7b, 0x00, 0xb4])
let weight = "stage.mlpackage/Data/com.apple.CoreML/weights/weight.bin"

let helloWords = Greeting(name: "mini1", nonce: String(repeating: "01", count: 32), role: .cluster, run: run)
let challengeWords = Greeting(name: "Mina’s iPad", nonce: String(repeating: "ab", count: 32), role: .tablet, run: run)

func floats() -> Data {
    var data = Data()
    for value: Float in [0, 1, -2, 0.5, 65504, -0.25] {
        withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) }
    }
    return data
}

func hidden(_ request: UInt32, _ session: UInt64, _ position: UInt32, _ number: Numbers, _ values: Data) -> Hidden {
    Hidden(
        request: request, session: session, position: position, tokens: 2, width: 3, number: number, values: values)
}

/// Every golden file but the two proofs, which need CryptoKit.
let messages: [(name: String, message: Message)] = [
    ("hello", .hello(helloWords)),
    ("challenge", .challenge(challengeWords)),
    (
        "assign",
        .assign(
            Assign(
                context: 1024, dtype: "fp16", last: false, layers: "4:8", model: "gpt2", outWidth: 768,
                packages: [
                    "coreml": String(repeating: "1f", count: 32), "onnx": String(repeating: "2e", count: 32),
                ],
                width: 768))
    ),
    (
        "ready",
        .ready(
            Ready(
                device: "iPad (A16)", format: "coreml", hash: String(repeating: "1f", count: 32), layers: "4:8"))
    ),
    ("fetch_listing", .fetch(Fetch(request: 1, format: "onnx", path: "", offset: 0, most: 1 << 20))),
    ("fetch", .fetch(Fetch(request: 9, format: "coreml", path: weight, offset: 1 << 20, most: 1 << 16))),
    (
        "piece",
        .piece(
            Piece(
                request: 9, offset: 1 << 20, size: (1 << 20) + 5, data: Data([0, 1, 0xfe, 0xff, 0x53])))
    ),
    ("open", .open(Open(session: session, capacity: 1024))),
    ("forward_fp16", .forward(hidden(7, session, 42, .fp16, halves))),
    ("forward_fp32", .forward(hidden(8, 1, 0, .fp32, floats()))),
    ("result_fp16", .result(hidden(7, session, 42, .fp16, halves))),
    ("result_fp32", .result(hidden(8, 1, 0, .fp32, floats()))),
    ("forget", .forget(Forget(session: session))),
    ("ping", .ping(0xDEAD_BEEF)),
    ("pong", .pong(0xDEAD_BEEF)),
    (
        "error_session",
        .error(Failure(.unknownSession, "it is not open here", request: 7, session: session))
    ),
    ("error_connection", .error(Failure(.wrongStage, "this tablet has layers 0:4"))),
]
