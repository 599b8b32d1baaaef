// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

struct Subscription {
    address owner;
    uint32 activeAt;
    uint32 period;
    uint32 frequency;
    uint16 redundancy;
    bytes32 containerId;
    bool lazy;
    address verifier;
    uint256 paymentAmount;
    address paymentToken;
    address wallet;
}

interface IConsumer {
    function getContainerInputs(uint32 id, uint32 interval, uint32 timestamp, address caller)
        external view returns (bytes memory);
    function rawReceiveCompute(
        uint32 id, uint32 interval, uint16 response, address node, bytes memory input, bytes memory output,
        bytes memory proof, bytes32 containerId, uint256 index
    ) external;
    function getSigner() external view returns (address);
}

interface IVerifier {
    function getWallet() external view returns (address);
    function isSupportedToken(address token) external view returns (bool);
    function fee(address token) external view returns (uint256);
    function requestProofVerification(uint32 id, uint32 interval, address node, bytes memory proof) external;
}

interface IToken {
    function transfer(address to, uint256 amount) external returns (bool);
    function balanceOf(address owner) external view returns (uint256);
}
