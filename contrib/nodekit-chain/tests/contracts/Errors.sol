// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

// Reasons why the contracts revert, by the names under which nodes know them.
error SubscriptionNotFound();
error SubscriptionNotActive();
error IntervalMismatch();
error SubscriptionCompleted();
error IntervalCompleted();
error NodeRespondedAlready();
error NotSubscriptionOwner();
error SignatureExpired();
error InvalidSignature();
error SignerMismatch();
error InvalidWallet();
error UnsupportedVerifierToken();
error UnauthorizedVerifier();
error ProofRequestNotFound();
error InsufficientAllowance();
error InsufficientFunds();
error TransferFailed();
error ETHTransferFailed();
error NodeNotAllowed();
error InsufficientBalance();
error Reentrancy();
error NotCoordinator();
error NotOwner();
