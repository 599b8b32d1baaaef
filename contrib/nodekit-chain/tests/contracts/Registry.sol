// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

/// The addresses of the contracts. Those that need it are deployed first, and read what they need when they are called.
contract Registry {
    address public COORDINATOR;
    address public READER;
    address public INBOX;
    address public FEE;
    address public WALLET_FACTORY;

    function set(address coordinator, address reader, address inbox, address fee, address factory) external {
        (COORDINATOR, READER, INBOX, FEE, WALLET_FACTORY) = (coordinator, reader, inbox, fee, factory);
    }
}

/// What the protocol takes, in parts of 10 000.
contract Fee {
    uint16 public FEE;
    address public FEE_RECIPIENT;

    constructor(uint16 fee, address recipient) {
        set(fee, recipient);
    }

    function set(uint16 fee, address recipient) public {
        (FEE, FEE_RECIPIENT) = (fee, recipient);
    }
}
