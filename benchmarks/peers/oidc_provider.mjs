// Token exchange on oidc-provider, as its documentation tells: a grant type of one's own, private_key_jwt, a JWT as access token.
// With PROMISES=1 it keeps two of the broker's promises by Google's own clients: a client assertion is used once across
// instances (a document is created in Firestore), and the event of each token is acknowledged by Pub/Sub before it leaves.
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

import { jwtVerify } from "jose";
import { Provider } from "oidc-provider";

const { port, issuer, resource, client, subjectIssuer, signingKey } = JSON.parse(readFileSync(process.argv[2], "utf8"));
const GRANT = "urn:ietf:params:oauth:grant-type:token-exchange";
const subjectKey = createPublicKey({ key: subjectIssuer.jwk, format: "jwk" });

let publish = async () => {};
let adapter;
if (process.env.PROMISES) {
  const { Firestore } = await import("@google-cloud/firestore");
  const { PubSub } = await import("@google-cloud/pubsub");
  const marks = new Firestore().collection("single_use");
  const topic = new PubSub().topic("cab-audit");
  publish = (event) => topic.publishMessage({ json: event });
  const kept = new Map(); // the kinds that this deployment never looks up again
  adapter = class {
    constructor(name) {
      this.name = name;
    }
    async find(id) {
      if (this.name !== "ReplayDetection") return kept.get(`${this.name}:${id}`);
      try {
        await marks.doc(id.replaceAll("/", "_")).create({ at: new Date() }); // found only if it was there before
        return undefined;
      } catch (error) {
        if (error.code !== 6) throw error;
        return { jti: id };
      }
    }
    async upsert(id, payload) {
      if (this.name === "ReplayDetection") return;
      if (kept.size > 1000) kept.clear();
      kept.set(`${this.name}:${id}`, payload);
    }
    async consume() {}
    async destroy(id) {
      kept.delete(`${this.name}:${id}`);
    }
    async findByUid() {}
    async findByUserCode() {}
    async revokeByGrantId() {}
  };
}

const provider = new Provider(issuer, {
  adapter,
  clients: [
    {
      client_id: client.id,
      token_endpoint_auth_method: "private_key_jwt",
      token_endpoint_auth_signing_alg: "ES256",
      jwks: { keys: [client.jwk] },
      grant_types: [GRANT],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: "ES256",
    },
  ],
  jwks: { keys: [signingKey] },
  scopes: ["opportunity.read"],
  clientAuthMethods: ["private_key_jwt"],
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => info,
    },
  },
});
const info = { scope: "opportunity.read", audience: resource, accessTokenFormat: "jwt", jwt: { sign: { alg: "ES256" } } };

provider.registerGrantType(
  GRANT,
  async (ctx) => {
    const { params, client: caller } = ctx.oidc;
    const { payload } = await jwtVerify(params.subject_token, subjectKey, {
      issuer: subjectIssuer.issuer,
      audience: subjectIssuer.audience,
      algorithms: ["ES256"],
    });
    const token = new provider.AccessToken({
      accountId: payload.sub,
      client: caller,
      gty: "token-exchange",
      scope: "opportunity.read",
      extra: { act: { sub: caller.clientId }, txn: payload.txn },
    });
    token.resourceServer = new provider.ResourceServer(resource, info);
    const value = await token.save();
    await publish({
      event_id: token.jti,
      event_type: "exchange.decided",
      occurred_at: new Date().toISOString(),
      subject: payload.sub,
      actor: caller.clientId,
      intent: JSON.parse(params.authorization_details),
      txn: payload.txn,
      outcome: "issued",
    });
    ctx.body = {
      access_token: value,
      issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
      token_type: "Bearer",
      expires_in: token.expiration,
      scope: token.scope,
    };
  },
  ["subject_token", "subject_token_type", "resource", "authorization_details"],
  ["resource"],
);

createServer(provider.callback()).listen(port, "127.0.0.1");
