// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.20;

import "./Errors.sol";
import "./Interfaces.sol";
import "./Registry.sol";
import "./Inbox.sol";
import "./Wallet.sol";

/// Keeps subscriptions, and takes results for their intervals.
contract Coordinator {
    event SubscriptionCreated(uint32 indexed id);
    event SubscriptionCancelled(uint32 indexed id);
    event SubscriptionFulfilled(uint32 indexed id, address indexed node);
    event ProofVerified(
        uint32 indexed id, uint32 indexed interval, address indexed node, bool active, address verifier, bool valid
    );

    struct ProofRequest {
        uint32 expiry;
        address nodeWallet;
        uint256 consumerEscrowed;
    }

    /// A result on its way through the checks: what would not fit on the stack.
    struct Result {
        uint32 id;
        uint32 interval;
        uint16 response;
        bytes input;
        bytes output;
        bytes proof;
        address nodeWallet;
    }

    string private constant FIELDS = "Subscription(address owner,uint32 activeAt,uint32 period,uint32 frequency,"
        "uint16 redundancy,bytes32 containerId,bool lazy,address verifier,uint256 paymentAmount,"
        "address paymentToken,address wallet)";
    bytes32 private constant SUBSCRIPTION_TYPE = keccak256(bytes(FIELDS));
    bytes32 private constant REQUEST_TYPE =
        keccak256(abi.encodePacked("DelegateSubscription(uint32 nonce,uint32 expiry,Subscription sub)", FIELDS));
    bytes32 private immutable domain;
    Registry private immutable registry;

    uint32 public id = 1;
    mapping(uint32 => Subscription) private subscriptions;
    mapping(bytes32 => uint16) public redundancyCount;
    mapping(bytes32 => bool) public nodeResponded;
    mapping(bytes32 => ProofRequest) public proofRequests;
    mapping(bytes32 => uint32) public delegateCreatedIds;
    mapping(address => uint32) public maxSubscriberNonce;
    bool private entered;

    constructor(Registry known) {
        registry = known;
        domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("InfernetCoordinator"), keccak256("1"), block.chainid, address(this)
            )
        );
    }

    modifier once() {
        if (entered) revert Reentrancy();
        entered = true;
        _;
        entered = false;
    }

    function getSubscription(uint32 which) external view returns (Subscription memory) {
        return subscriptions[which];
    }

    // -- orders --------------------------------------------------------------------------------

    function createSubscription(
        string memory containerId, uint32 frequency, uint32 period, uint16 redundancy, bool lazy,
        address paymentToken, uint256 paymentAmount, address wallet, address verifier
    ) external returns (uint32) {
        return _create(
            Subscription({
                owner: msg.sender,
                activeAt: uint32(block.timestamp) + period,
                period: period,
                frequency: frequency,
                redundancy: redundancy,
                containerId: keccak256(abi.encode(containerId)),
                lazy: lazy,
                verifier: verifier,
                paymentAmount: paymentAmount,
                paymentToken: paymentToken,
                wallet: wallet
            })
        );
    }

    function _create(Subscription memory sub) private returns (uint32 created) {
        created = id++;
        subscriptions[created] = sub;
        emit SubscriptionCreated(created);
    }

    function cancelSubscription(uint32 which) external {
        if (subscriptions[which].owner != msg.sender) revert NotSubscriptionOwner();
        subscriptions[which].activeAt = type(uint32).max;
        emit SubscriptionCancelled(which);
    }

    function createSubscriptionDelegatee(
        uint32 nonce, uint32 expiry, Subscription memory sub, uint8 v, bytes32 r, bytes32 s
    ) public returns (uint32 created) {
        bytes32 key = keccak256(abi.encode(sub.owner, nonce));
        created = delegateCreatedIds[key];
        if (created != 0) return created;
        if (block.timestamp >= expiry) revert SignatureExpired();
        bytes32 hashed = keccak256(abi.encode(REQUEST_TYPE, nonce, expiry, _hashed(sub)));
        address signer = ecrecover(keccak256(abi.encodePacked("\x19\x01", domain, hashed)), v, r, s);
        if (signer == address(0)) revert InvalidSignature();
        if (signer != IConsumer(sub.owner).getSigner()) revert SignerMismatch();
        created = _create(sub);
        delegateCreatedIds[key] = created;
        if (nonce > maxSubscriberNonce[sub.owner]) maxSubscriberNonce[sub.owner] = nonce;
    }

    function _hashed(Subscription memory sub) private pure returns (bytes32) {
        return keccak256(abi.encode(SUBSCRIPTION_TYPE, sub)); // its fields all have one word each
    }

    // -- results -------------------------------------------------------------------------------

    function deliverCompute(
        uint32 which, uint32 interval, bytes memory input, bytes memory output, bytes memory proof, address nodeWallet
    ) external once {
        _deliver(Result(which, interval, 0, input, output, proof, nodeWallet));
    }

    function deliverComputeDelegatee(
        uint32 nonce, uint32 expiry, Subscription memory sub, uint8 v, bytes32 r, bytes32 s, uint32 interval,
        bytes memory input, bytes memory output, bytes memory proof, address nodeWallet
    ) external once {
        uint32 which = createSubscriptionDelegatee(nonce, expiry, sub, v, r, s);
        _deliver(Result(which, interval, 0, input, output, proof, nodeWallet));
    }

    function _deliver(Result memory result) private {
        Subscription memory sub = subscriptions[result.id];
        result.response = _counted(sub, result);
        if (sub.paymentAmount > 0) _pay(sub, result);
        emit SubscriptionFulfilled(result.id, msg.sender);
        if (sub.lazy) {
            uint256 index = Inbox(registry.INBOX()).write(
                sub.containerId, msg.sender, result.id, result.interval, result.input, result.output, result.proof
            );
            IConsumer(sub.owner).rawReceiveCompute(
                result.id, result.interval, result.response, msg.sender, "", "", "", sub.containerId, index
            );
        } else {
            IConsumer(sub.owner).rawReceiveCompute(
                result.id, result.interval, result.response, msg.sender, result.input, result.output, result.proof,
                bytes32(0), 0
            );
        }
    }

    /// Check that a result is due, count it, and return its number.
    function _counted(Subscription memory sub, Result memory result) private returns (uint16) {
        if (sub.owner == address(0)) revert SubscriptionNotFound();
        if (block.timestamp < sub.activeAt) revert SubscriptionNotActive();
        uint32 current = sub.period == 0 ? 1 : (uint32(block.timestamp) - sub.activeAt) / sub.period + 1;
        if (result.interval != current) revert IntervalMismatch();
        if (result.interval > sub.frequency) revert SubscriptionCompleted();
        bytes32 key = keccak256(abi.encode(result.id, result.interval));
        if (redundancyCount[key] >= sub.redundancy) revert IntervalCompleted();
        bytes32 nodeKey = keccak256(abi.encode(result.id, result.interval, msg.sender));
        if (nodeResponded[nodeKey]) revert NodeRespondedAlready();
        nodeResponded[nodeKey] = true;
        return ++redundancyCount[key];
    }

    // -- payments ------------------------------------------------------------------------------

    function _pay(Subscription memory sub, Result memory result) private {
        WalletFactory factory = WalletFactory(registry.WALLET_FACTORY());
        if (!factory.isValidWallet(sub.wallet) || !factory.isValidWallet(result.nodeWallet)) revert InvalidWallet();
        Wallet consumer = Wallet(payable(sub.wallet));
        address token = sub.paymentToken;
        Fee fees = Fee(registry.FEE());
        uint256 rest = sub.paymentAmount;
        uint256 toProtocol = rest * fees.FEE() * 2 / 10_000;
        rest -= toProtocol;
        if (sub.verifier == address(0)) {
            consumer.pay(sub.owner, token, fees.FEE_RECIPIENT(), toProtocol);
            consumer.pay(sub.owner, token, result.nodeWallet, rest);
            return;
        }
        IVerifier verifier = IVerifier(sub.verifier);
        if (!verifier.isSupportedToken(token)) revert UnsupportedVerifierToken();
        uint256 charged = verifier.fee(token);
        if (charged > rest) revert InsufficientFunds();
        uint256 ofCharge = charged * fees.FEE() / 10_000;
        consumer.pay(sub.owner, token, fees.FEE_RECIPIENT(), toProtocol + ofCharge);
        consumer.pay(sub.owner, token, verifier.getWallet(), charged - ofCharge);
        consumer.hold(sub.owner, token, rest - charged);
        Wallet(payable(result.nodeWallet)).hold(msg.sender, token, sub.paymentAmount);
        proofRequests[keccak256(abi.encode(result.id, result.interval, msg.sender))] =
            ProofRequest(uint32(block.timestamp) + 1 weeks, result.nodeWallet, rest - charged);
        verifier.requestProofVerification(result.id, result.interval, msg.sender, result.proof);
    }

    function finalizeProofVerification(uint32 which, uint32 interval, address node, bool valid) external {
        bytes32 key = keccak256(abi.encode(which, interval, node));
        ProofRequest memory request = proofRequests[key];
        if (request.expiry == 0) revert ProofRequestNotFound();
        Subscription memory sub = subscriptions[which];
        bool active = block.timestamp < request.expiry;
        if (active && msg.sender != sub.verifier) revert UnauthorizedVerifier();
        delete proofRequests[key];
        Wallet consumer = Wallet(payable(sub.wallet));
        Wallet worker = Wallet(payable(request.nodeWallet));
        consumer.release(sub.owner, sub.paymentToken, request.consumerEscrowed);
        worker.release(node, sub.paymentToken, sub.paymentAmount);
        if (valid || !active) consumer.pay(sub.owner, sub.paymentToken, request.nodeWallet, request.consumerEscrowed);
        else worker.pay(node, sub.paymentToken, sub.wallet, sub.paymentAmount);
        emit ProofVerified(which, interval, node, active, sub.verifier, valid);
    }
}

/// Reads many rows in one call.
contract Reader {
    Registry private immutable registry;

    constructor(Registry known) {
        registry = known;
    }

    function readSubscriptionBatch(uint32 start, uint32 end) external view returns (Subscription[] memory rows) {
        rows = new Subscription[](end - start);
        for (uint32 i = start; i < end; i++) rows[i - start] = Coordinator(registry.COORDINATOR()).getSubscription(i);
    }

    function readRedundancyCountBatch(uint32[] calldata ids, uint32[] calldata intervals)
        external view returns (uint16[] memory counts)
    {
        counts = new uint16[](ids.length);
        for (uint256 i = 0; i < ids.length; i++) {
            bytes32 key = keccak256(abi.encode(ids[i], intervals[i]));
            counts[i] = Coordinator(registry.COORDINATOR()).redundancyCount(key);
        }
    }
}
