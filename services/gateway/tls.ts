/** The server's certificate: the configured one, or one that it makes for itself, as LXD does. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { generate } from 'selfsigned';
import { readText, stateDir } from '../config.ts';
import type { Config } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { Log } from '../logger.ts';
import { fingerprintOf } from '../trust/certificates.ts';

export interface ServerCertificate {
  /** PEM. */
  cert: string;
  /** PEM. */
  key: string;
}

const validYears = 10;

/** Reads the configured pair, or the one in the state directory, which is made when it is not there. */
export async function serverCertificate(config: Config, env: NodeJS.ProcessEnv, log: Log): Promise<ServerCertificate> {
  const { certificate, key, address } = config.gateway;
  if (certificate || key) {
    if (!certificate || !key)
      throw new LxstowError('bad-config', 'configuration: gateway.certificate and gateway.key go together');
    return { cert: readText(certificate, 'gateway.certificate'), key: readText(key, 'gateway.key') };
  }
  const dir = stateDir(config, env);
  const [certFile, keyFile] = [join(dir, 'server.crt'), join(dir, 'server.key')];
  if (!existsSync(certFile) || !existsSync(keyFile)) {
    const made = await selfSigned([
      'localhost',
      hostname(),
      '127.0.0.1',
      '::1',
      ...(['0.0.0.0', '::'].includes(address) ? [] : [address]),
    ]);
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await writeFile(keyFile, made.key, { mode: 0o600 });
    await writeFile(certFile, made.cert);
    log.info('server certificate made', { file: certFile, fingerprint: fingerprintOf(made.cert) });
  }
  return { cert: readText(certFile, 'server certificate'), key: readText(keyFile, 'server key') };
}

/** Where clients reach the gateway, each as host:port: as configured, else where it listens. */
export function advertisedAddresses({ advertise, address }: Config['gateway'], port: number): string[] {
  if (advertise) return advertise;
  const found = ['0.0.0.0', '::'].includes(address)
    ? Object.values(networkInterfaces())
        .flatMap((each) => each ?? [])
        .filter((each) => !each.internal && !each.address.startsWith('fe80:'))
        .filter(({ family }) => family === 'IPv4' || address === '::')
        .map((each) => each.address)
    : [address];
  return (found.length > 0 ? found : ['127.0.0.1']).map((each) => `${isIP(each) === 6 ? `[${each}]` : each}:${port}`);
}

async function selfSigned(names: string[]): Promise<ServerCertificate> {
  const notAfterDate = new Date();
  notAfterDate.setFullYear(notAfterDate.getFullYear() + validYears);
  const { cert, private: key } = await generate([{ name: 'commonName', value: hostname() }], {
    keyType: 'ec',
    curve: 'P-384',
    algorithm: 'sha384',
    notAfterDate,
    extensions: [
      { name: 'basicConstraints', cA: false, critical: true },
      { name: 'keyUsage', digitalSignature: true, critical: true },
      { name: 'extKeyUsage', serverAuth: true },
      {
        name: 'subjectAltName',
        altNames: [...new Set(names)].map((name) =>
          isIP(name) ? { type: 7 as const, ip: name } : { type: 2 as const, value: name },
        ),
      },
    ],
  });
  return { cert, key };
}
