// swift-tools-version: 6.0

import AppleProductTypes
import PackageDescription

let package = Package(
    name: "Smolcluster",
    platforms: [.iOS("18.0")],
    products: [
        .iOSApplication(
            name: "Smolcluster",
            targets: ["AppModule"],
            bundleIdentifier: "org.smolcluster.tablet",
            displayVersion: "1.0",
            bundleVersion: "1",
            appIcon: .placeholder(icon: .chatMessage),
            accentColor: .presetColor(.indigo),
            supportedDeviceFamilies: [.pad, .phone],
            supportedInterfaceOrientations: [
                .portrait,
                .landscapeLeft,
                .landscapeRight,
                .portraitUpsideDown(.when(deviceFamilies: [.pad])),
            ],
            capabilities: [.camera(purposeString: "To scan the key that the cluster shows.")],
            // Why it wants the local network, and the links that open it.
            additionalInfoPlistContentFilePath: "AdditionalInfo.plist"
        )
    ],
    dependencies: [.package(path: "TabletProtocol")],
    targets: [
        .executableTarget(
            // Not "App", which SwiftUI calls a protocol of its own.
            name: "AppModule",
            dependencies: [.product(name: "TabletProtocol", package: "TabletProtocol")],
            path: "App",
            // MLModel and NWConnection are not marked for strict concurrency in every SDK that has iOS 18.
            swiftSettings: [.swiftLanguageMode(.v5)]
        )
    ]
)
