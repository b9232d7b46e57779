// Token exchange on ZITADEL's OpenID Provider library: private_key_jwt, a subject token of another issuer, a JWT as access token.
// What it asks its storage for is in memory. Nothing is kept: no single use, no record.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"os"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

type described struct {
	Address string
	Issuer  string
	Client  struct {
		ID  string
		JWK jose.JSONWebKey
	}
	SubjectIssuer struct {
		Issuer   string
		Audience string
		JWK      jose.JSONWebKey
	}
	SigningKey jose.JSONWebKey
}

var errUnknown = errors.New("unknown")

// The methods that a token exchange does not call are those of no storage at all.
type storage struct {
	op.Storage
	*described
}

func (s storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if id != s.Client.ID {
		return nil, errUnknown
	}
	return client{id: id}, nil
}

func (s storage) GetKeyByIDAndClientID(_ context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	if clientID != s.Client.ID || keyID != s.Client.JWK.KeyID {
		return nil, errUnknown
	}
	return &s.Client.JWK, nil
}

// VerifySignature makes the storage the key set of the issuer of subject tokens.
func (s storage) VerifySignature(_ context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	return jws.Verify(s.SubjectIssuer.JWK)
}

func (s storage) VerifyExchangeSubjectToken(ctx context.Context, token string, _ oidc.TokenType) (string, string, map[string]any, error) {
	claims := new(oidc.AccessTokenClaims)
	payload, err := oidc.ParseToken(token, claims)
	if err != nil {
		return "", "", nil, err
	}
	for _, err := range []error{
		oidc.CheckIssuer(claims, s.SubjectIssuer.Issuer),
		oidc.CheckAudience(claims, s.SubjectIssuer.Audience),
		oidc.CheckExpiration(claims, 0),
		oidc.CheckSignature(ctx, token, payload, claims, []string{"ES256"}, s),
	} {
		if err != nil {
			return "", "", nil, err
		}
	}
	return claims.JWTID, claims.Subject, claims.Claims, nil
}

func (s storage) VerifyExchangeActorToken(context.Context, string, oidc.TokenType) (string, string, map[string]any, error) {
	return "", "", nil, errUnknown
}

func (s storage) ValidateTokenExchangeRequest(_ context.Context, request op.TokenExchangeRequest) error {
	request.SetRequestedTokenType(oidc.AccessTokenType)
	return nil
}

func (s storage) CreateTokenExchangeRequest(context.Context, op.TokenExchangeRequest) error {
	return nil
}

func (s storage) GetPrivateClaimsFromTokenExchangeRequest(context.Context, op.TokenExchangeRequest) (map[string]any, error) {
	return nil, nil
}

func (s storage) SetUserinfoFromTokenExchangeRequest(context.Context, *oidc.UserInfo, op.TokenExchangeRequest) error {
	return nil
}

func (s storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return rand.Text(), time.Now().Add(5 * time.Minute), nil
}

func (s storage) SigningKey(context.Context) (op.SigningKey, error) {
	return signingKey{s.described.SigningKey}, nil
}

func (s storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{signingKey{s.described.SigningKey}.SignatureAlgorithm()}, nil
}

func (s storage) KeySet(context.Context) ([]op.Key, error) {
	return nil, nil
}

func (s storage) Health(context.Context) error {
	return nil
}

type signingKey struct{ jose.JSONWebKey }

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm {
	return jose.SignatureAlgorithm(k.Algorithm)
}
func (k signingKey) Key() any   { return k.JSONWebKey.Key }
func (k signingKey) ID() string { return k.KeyID }

type client struct {
	op.Client
	id string
}

func (c client) GetID() string                       { return c.id }
func (c client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodPrivateKeyJWT }
func (c client) GrantTypes() []oidc.GrantType        { return []oidc.GrantType{oidc.GrantTypeTokenExchange} }
func (c client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (c client) ClockSkew() time.Duration            { return 0 }
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}

func main() {
	content, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	said := new(described)
	if err := json.Unmarshal(content, said); err != nil {
		log.Fatal(err)
	}
	config := &op.Config{AuthMethodPrivateKeyJWT: true}
	provider, err := op.NewProvider(config, storage{described: said}, op.StaticIssuer(said.Issuer), op.WithAllowInsecure())
	if err != nil {
		log.Fatal(err)
	}
	handler := op.RegisterLegacyServer(op.NewLegacyServer(provider, provider.Endpoints()), op.AuthorizeCallbackHandler(provider))
	log.Fatal(http.ListenAndServe(said.Address, handler))
}
