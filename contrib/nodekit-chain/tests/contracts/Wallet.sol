// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import "./Errors.sol";
import "./Interfaces.sol";
import "./Registry.sol";

/// Pays what its owner allows to be spent.
contract Wallet {
    address public owner;
    Registry private immutable registry;
    mapping(address => mapping(address => uint256)) public allowance;
    mapping(address => uint256) private held;

    constructor(address owned, Registry known) {
        (owner, registry) = (owned, known);
    }

    receive() external payable {}

    modifier fromCoordinator() {
        if (msg.sender != registry.COORDINATOR()) revert NotCoordinator();
        _;
    }

    function approve(address spender, address token, uint256 amount) external {
        if (msg.sender != owner) revert NotOwner();
        allowance[spender][token] = amount;
    }

    function withdraw(address token, uint256 amount) external {
        if (msg.sender != owner) revert NotOwner();
        if (_free(token) < amount) revert InsufficientFunds();
        _send(token, owner, amount);
    }

    function pay(address spender, address token, address to, uint256 amount) external fromCoordinator {
        _spend(spender, token, amount);
        _send(token, to, amount);
    }

    function hold(address spender, address token, uint256 amount) external fromCoordinator {
        _spend(spender, token, amount);
        held[token] += amount;
    }

    function release(address spender, address token, uint256 amount) external fromCoordinator {
        held[token] -= amount;
        allowance[spender][token] += amount;
    }

    function _spend(address spender, address token, uint256 amount) private {
        if (allowance[spender][token] < amount) revert InsufficientAllowance();
        if (_free(token) < amount) revert InsufficientFunds();
        allowance[spender][token] -= amount;
    }

    function _free(address token) private view returns (uint256) {
        uint256 balance = token == address(0) ? address(this).balance : IToken(token).balanceOf(address(this));
        return balance - held[token];
    }

    function _send(address token, address to, uint256 amount) private {
        if (token == address(0)) {
            (bool sent,) = to.call{value: amount}("");
            if (!sent) revert ETHTransferFailed();
        } else if (!IToken(token).transfer(to, amount)) {
            revert TransferFailed();
        }
    }
}

/// Makes wallets, and vouches for them.
contract WalletFactory {
    Registry private immutable registry;
    mapping(address => bool) public isValidWallet;

    event WalletCreated(address indexed owner, address wallet);

    constructor(Registry known) {
        registry = known;
    }

    function createWallet(address owner) external returns (address made) {
        made = address(new Wallet(owner, registry));
        isValidWallet[made] = true;
        emit WalletCreated(owner, made);
    }
}
