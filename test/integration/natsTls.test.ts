/** A NATS that wants TLS before it says anything. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { it } from 'node:test';
import { connectNats } from '../../services/nats/connection.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { openFolder } from '../lab/folder.ts';
import { startNats } from '../lab/nats.ts';

const quiet = () => undefined;

it('NATS with handshake_first is reached with nats.tlsFirst', { timeout: 60_000 }, async () => {
  await using folder = await openFolder('natstls', quiet);
  const { cert, key } = await makeCertificate({ commonName: 'nats' });
  const [ca, keyFile] = [join(folder.path, 'server.crt'), join(folder.path, 'server.key')];
  await writeFile(ca, cert);
  await writeFile(keyFile, key);
  const config = `tls { cert_file: "${ca}", key_file: "${keyFile}", handshake_first: true }`;
  await using server = await startNats({ name: 'natstls', log: quiet, config });
  const log = createLogger({ level: 'error', format: 'json' }, {});
  const settings = {
    servers: [`tls://127.0.0.1:${server.port}`],
    ca,
    replicas: 1,
    operationsKeptHours: 1,
    runsKeptHours: 1,
    maxQueuedJobs: 1,
  };
  await assert.rejects(connectNats(settings, 'lxstow-test', log, { timeoutMs: 3000 }), { code: 'nats-unavailable' });
  await using nats = await connectNats({ ...settings, tlsFirst: true }, 'lxstow-test', log);
  nats.assertConnected();
});
