// oidc-provider with the features that a client-credentials client can meet.
//
//   node server.mjs <configuration.json>
//
// serves each issuer of the configuration on ports of the system's choice, over http,
// or over https with another port for clients that have a certificate; prints one line
// of JSON with their URLs, and ends when its standard input does, so that it can't
// outlive the tests.
import { createHash, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

import Provider from 'oidc-provider';

const config = JSON.parse(readFileSync(process.argv[2], 'utf8'));

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));

const wellKnown = ['/.well-known/oauth-authorization-server', '/.well-known/openid-configuration'];

async function listen(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server.address().port;
}

// The certificate of the connection, whoever signed it.
function certificateOf(ctx) {
  const { raw } = ctx.socket.getPeerCertificate?.() ?? {};
  return raw ? new X509Certificate(raw) : undefined;
}

// RFC 4514's order: what X.509 has last comes first.
function subjectOf(certificate) {
  return certificate.subject.split('\n').reverse().join(',');
}

function newProvider(issuer, mtls, { require_dpop_nonce: requireNonce, fapi }) {
  const lifetime = (client) => client.token_lifetime ?? 3600;
  const provider = new Provider(issuer, {
    clients: config.clients,
    jwks: config.jwks,
    extraClientMetadata: { properties: ['token_lifetime'] },
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'none',
    ],
    scopes: ['orders:read', 'orders:write'],
    responseTypes: [],
    ttl: { ClientCredentials: (ctx, token, client) => lifetime(client) },
    discovery: mtls ? { mtls_endpoint_aliases: { token_endpoint: `${mtls}/token` } } : {},
    features: {
      devInteractions: { enabled: false },
      userinfo: { enabled: false },
      clientCredentials: { enabled: true },
      fapi: { enabled: Boolean(fapi), profile: fapi || undefined },
      introspection: { enabled: true, allowedPolicy: () => true },
      revocation: { enabled: true, allowedPolicy: () => true },
      dPoP: {
        enabled: true,
        nonceSecret: createHash('sha256').update(issuer).digest(),
        requireNonce: () => Boolean(requireNonce),
      },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => certificateOf(ctx)?.toString(),
        certificateAuthorized: (ctx) => Boolean(ctx.socket.authorized),
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_subject_dn'
          && subjectOf(certificateOf(ctx)) === expected,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (ctx, resource, client) => ({
          scope: 'orders:read orders:write',
          audience: resource,
          accessTokenFormat: 'jwt',
          accessTokenTTL: lifetime(client),
        }),
      },
    },
  });
  provider.on('server_error', (ctx, error) => console.error(error));
  return provider;
}

// Mounts the provider below the issuer's path, and hides the metadata documents
// that the issuer is not meant to have.
function handler(provider, { path = '', well_known: shown = wellKnown }) {
  const callback = provider.callback();
  const mounted = new Map(); // where a document is for clients, and for the provider
  for (const document of wellKnown) {
    mounted.set(`${path}${document}`, undefined);
  }
  for (const document of shown) {
    // RFC 8414 §3.1 puts the issuer's path last, OpenID Connect first.
    mounted.set(document === wellKnown[0] ? `${document}${path}` : `${path}${document}`, document);
  }
  return (req, res) => {
    const url = mounted.has(req.url) ? mounted.get(req.url)
      : req.url.startsWith(`${path}/`) ? req.url.slice(path.length) : undefined;
    if (url === undefined) {
      res.writeHead(404).end();
      return;
    }
    req.url = url;
    req.originalUrl = `${path}${url}`;
    callback(req, res);
  };
}

const ready = {};
for (const issuer of config.issuers) {
  let serve;
  const start = async (create, options) => listen(create(options, (req, res) => serve(req, res)));
  const { path = '' } = issuer;
  let url;
  let mtls;
  if (issuer.tls) {
    url = `https://127.0.0.1:${await start(https.createServer, config.tls)}${path}`;
    const options = { ...config.tls, requestCert: true, rejectUnauthorized: false };
    mtls = `https://127.0.0.1:${await start(https.createServer, options)}${path}`;
  } else {
    url = `http://127.0.0.1:${await start(http.createServer, {})}${path}`;
  }
  serve = handler(newProvider(url, mtls, issuer), issuer);
  ready[issuer.name] = { issuer: url };
}
console.log(JSON.stringify(ready));
