/** The gateway's HTTPS server. It asks clients for their certificates; an untrusted client gets an error, not a failed handshake. */
import { constants } from 'node:crypto';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { readText } from '../contract/config.ts';
import { LxstowError } from '../contract/errors.ts';
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

/** Listens, and returns the port. Throws bad-config. */
export async function listen(server: https.Server, address: string, port: number): Promise<number> {
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve));
  } catch (cause) {
    throw new LxstowError('bad-config', `cannot listen on ${address} port ${port}: ${(cause as Error).message}`, {
      cause,
    });
  }
  return (server.address() as AddressInfo).port;
}
