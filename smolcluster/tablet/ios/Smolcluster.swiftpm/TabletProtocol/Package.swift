// swift-tools-version: 6.0

import PackageDescription

let package = Package(
    name: "TabletProtocol",
    platforms: [.iOS(.v18), .macOS(.v15)],
    products: [.library(name: "TabletProtocol", targets: ["TabletProtocol"])],
    targets: [
        .target(name: "TabletProtocol"),
        .testTarget(name: "TabletProtocolTests", dependencies: ["TabletProtocol"]),
    ]
)
