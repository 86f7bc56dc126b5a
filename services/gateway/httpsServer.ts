/** The gateway's HTTPS server. It asks clients for their certificates; an untrusted client gets an error, not a failed handshake. */
import { constants } from 'node:crypto';
import https from 'node:https';
import { readText } from '../contract/config.ts';
import { connectionLimits } from './access/connections.ts';
import { createApp } from './app.ts';
import { takeUpgrades } from './events/upgrade.ts';
import type { GatewayParts } from './gatewayParts.ts';

/** Makes the server; it does not listen yet. */
export function createHttpsServer(parts: GatewayParts): https.Server {
  const { certificate, config, connections } = parts;
  const { trustCa } = config.gateway;
  const app = createApp(parts);
  const server = https.createServer(
    {
      ...certificate,
      minVersion: 'TLSv1.2',
      requestCert: true,
      ...connectionLimits,
      rejectUnauthorized: false,
      ...(trustCa ? { ca: readText(trustCa, 'gateway.trustCa') } : {}),
      // No session tickets: a resumed session would not show the client's certificate again, and would outlive its trust.
      // No renegotiation: with it, a client could change its certificate within a connection.
      secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    },
    app,
  );
  takeUpgrades(server, app);
  server.on('secureConnection', (socket) => connections.add(socket));
  return server;
}
