// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import "./Errors.sol";
import "./Registry.sol";

/// Keeps the results of lazy subscriptions.
contract Inbox {
    event NewInboxItem(bytes32 indexed containerId, address indexed node, uint256 index);

    struct Item {
        uint32 timestamp;
        uint32 subscriptionId;
        uint32 interval;
        bytes input;
        bytes output;
        bytes proof;
    }

    Registry private immutable registry;
    mapping(bytes32 => mapping(address => Item[])) private items;

    constructor(Registry known) {
        registry = known;
    }

    function write(
        bytes32 containerId, address node, uint32 id, uint32 interval, bytes calldata input, bytes calldata output,
        bytes calldata proof
    ) external returns (uint256 index) {
        if (msg.sender != registry.COORDINATOR()) revert NotCoordinator();
        index = items[containerId][node].length;
        Item storage item = items[containerId][node].push();
        (item.timestamp, item.subscriptionId, item.interval) = (uint32(block.timestamp), id, interval);
        (item.input, item.output, item.proof) = (input, output, proof);
        emit NewInboxItem(containerId, node, index);
    }

    function read(bytes32 containerId, address node, uint256 index)
        external view returns (uint32, uint32, uint32, bytes memory, bytes memory, bytes memory)
    {
        Item storage item = items[containerId][node][index];
        return (item.timestamp, item.subscriptionId, item.interval, item.input, item.output, item.proof);
    }
}
