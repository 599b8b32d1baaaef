// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import "./Errors.sol";
import "./Interfaces.sol";
import "./Coordinator.sol";

/// Owns subscriptions, and does with results what a test tells it to.
contract Consumer is IConsumer {
    enum Mode { Take, RevertWithReason, RevertWithError, RevertEmpty, Burn, Reenter, Refuse, Unpaid }

    error Unwanted(uint32 id, uint32 interval);

    event Received(
        uint32 indexed id, uint32 interval, uint16 response, address node, bytes input, bytes output, bytes proof,
        bytes32 containerId, uint256 index
    );

    Registry private immutable registry;
    bytes private inputs;
    bool private withoutInputs;
    Mode public mode;
    address private signer;
    uint256 public received;

    constructor(Registry known) {
        registry = known;
    }

    function setInputs(bytes calldata given) external {
        inputs = given;
    }

    function setWithoutInputs(bool value) external {
        withoutInputs = value;
    }

    function setMode(Mode value) external {
        mode = value;
    }

    function setSigner(address value) external {
        signer = value;
    }

    function getSigner() external view returns (address) {
        return signer;
    }

    function getContainerInputs(uint32, uint32, uint32, address) external view returns (bytes memory) {
        require(!withoutInputs, "no inputs");
        return inputs;
    }

    function subscribe(
        string memory containers, uint32 frequency, uint32 period, uint16 redundancy, bool lazy, address token,
        uint256 amount, address wallet, address verifier
    ) public returns (uint32) {
        return Coordinator(registry.COORDINATOR()).createSubscription(
            containers, frequency, period, redundancy, lazy, token, amount, wallet, verifier
        );
    }

    function subscribeTimes(uint256 times, string memory containers, uint32 frequency, uint32 period) external {
        for (uint256 i = 0; i < times; i++) {
            subscribe(containers, frequency, period, 1, false, address(0), 0, address(0), address(0));
        }
    }

    function cancel(uint32 id) external {
        Coordinator(registry.COORDINATOR()).cancelSubscription(id);
    }

    function rawReceiveCompute(
        uint32 id, uint32 interval, uint16 response, address node, bytes calldata input, bytes calldata output,
        bytes calldata proof, bytes32 containerId, uint256 index
    ) external {
        if (msg.sender != registry.COORDINATOR()) revert NotCoordinator();
        if (mode != Mode.Take) _refuse(id, interval);
        received++;
        emit Received(id, interval, response, node, input, output, proof, containerId, index);
    }

    function _refuse(uint32 id, uint32 interval) private {
        if (mode == Mode.RevertWithReason) revert("not today");
        if (mode == Mode.RevertWithError) revert Unwanted(id, interval);
        if (mode == Mode.Burn) while (true) received++;
        if (mode == Mode.Reenter) Coordinator(msg.sender).deliverCompute(id, interval, "", "", "", address(0));
        if (mode == Mode.Refuse) revert NodeNotAllowed();
        if (mode == Mode.Unpaid) revert InsufficientBalance();
        assembly { revert(0, 0) }
    }
}

/// Checks proofs as a test tells it to: at once, or when the test finalizes.
contract Verifier is IVerifier {
    enum Mode { Wait, Accept, Reject }

    event ProofRequested(uint32 indexed id, uint32 indexed interval, address indexed node, bytes proof);

    Registry private immutable registry;
    address public getWallet;
    mapping(address => bool) public isSupportedToken;
    mapping(address => uint256) public fee;
    Mode private mode;

    constructor(Registry known, address wallet) {
        (registry, getWallet) = (known, wallet);
    }

    function setToken(address token, bool supported, uint256 charged) external {
        (isSupportedToken[token], fee[token]) = (supported, charged);
    }

    function setMode(Mode value) external {
        mode = value;
    }

    function requestProofVerification(uint32 id, uint32 interval, address node, bytes calldata proof) external {
        emit ProofRequested(id, interval, node, proof);
        if (mode != Mode.Wait) finalize(id, interval, node, mode == Mode.Accept);
    }

    function finalize(uint32 id, uint32 interval, address node, bool valid) public {
        Coordinator(registry.COORDINATOR()).finalizeProofVerification(id, interval, node, valid);
    }
}

/// A token that anyone mints; its transfers can be made to fail.
contract Token is IToken {
    mapping(address => uint256) public balanceOf;
    bool public failing;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function setFailing(bool value) external {
        failing = value;
    }

    function transfer(address to, uint256 amount) external returns (bool) {
        if (failing || balanceOf[msg.sender] < amount) return false;
        balanceOf[msg.sender] -= amount;
        balanceOf[to] += amount;
        return true;
    }
}

/// Takes no ether.
contract Unpayable {}
