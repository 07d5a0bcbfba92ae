// Package keys holds the keys of a stack, as files of mode 0600 in its
// directory, and what is signed with them:
//
//	operator.nk         seed of the operator, who vouches for the accounts
//	operator.jwt        who the operator is; public
//	system.nk, .jwt     the system account, for whoever pushes accounts to NATS
//	account.nk, .jwt    the account that everything lives in
//	producers.nk, .jwt  the account of producers, see package access
//	signing/<role>.nk   seed of the key that signs for a role
//	creds/<name>.creds  credentials of a NATS user
//	gateway-<n>.pem     PKCS #8 Ed25519 key, the identity of a gateway
//	issued.jsonl        what was signed for whom, without any secret
//	auth.conf           what nats-server has to include
//
// Seeds are made once and kept: tokens stay valid and gateways keep their
// instance_id when the stack starts again. An account's JWT lists the keys that
// may sign for it, each with what it may grant, and what is revoked. It is
// changed and signed anew by the operator's key; package trust takes it to where
// it is obeyed.
//
// A directory of a time before there was an operator has account.nk and
// signing.nk, the issuer of its tokens. It gets the rest, and signing.nk stays
// trusted, as an older key of the role operator, until it is removed.
package keys
