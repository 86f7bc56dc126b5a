/** The server's certificate: the configured one, or a self-signed one, as LXD makes it. */
import { existsSync, statSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { readText, stateDir } from '../contract/config.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';
import { fingerprintOf } from './certificates.ts';
import { checkPair } from './pair.ts';
import { selfSigned } from './selfSigned.ts';

export interface ServerCertificate {
  /** PEM. */
  cert: string;
  /** PEM. */
  key: string;
}

/** Paths of the certificate and key that the gateway makes for itself. */
export function ownFiles(stateDir: string): [certificate: string, key: string] {
  return [join(stateDir, 'server.crt'), join(stateDir, 'server.key')];
}

/** Reads the configured pair, or the one in the state directory; makes the latter if it does not exist. */
export async function serverCertificate(config: Config, env: NodeJS.ProcessEnv, log: Log): Promise<ServerCertificate> {
  const { certificate, key, address } = config.gateway;
  if (certificate || key) {
    if (!certificate || !key)
      throw new LxstowError('bad-config', 'configuration: gateway.certificate and gateway.key go together');
    const pair = { cert: readText(certificate, 'gateway.certificate'), key: readText(key, 'gateway.key') };
    checkPair(pair.cert, pair.key, { files: [certificate, key], settings: ['gateway.certificate', 'gateway.key'] });
    return pair;
  }
  const dir = stateDir(config, env);
  const [certFile, keyFile] = ownFiles(dir);
  if (!hasContent(certFile) || !hasContent(keyFile)) {
    const anywhere = ['0.0.0.0', '::'].includes(address);
    const names = ['localhost', hostname(), '127.0.0.1', '::1', ...(anywhere ? [] : [address])];
    const made = await selfSigned({ commonName: hostname(), usage: 'server', names });
    try {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      await writeFile(`${keyFile}.part`, made.key, { mode: 0o600 });
      await writeFile(`${certFile}.part`, made.cert);
      // In this order, so that a certificate always has its key, whenever the process ends.
      await rm(certFile, { force: true });
      await rename(`${keyFile}.part`, keyFile);
      await rename(`${certFile}.part`, certFile);
    } catch (cause) {
      const advice = `mkdir -p ${dir} && chown USER ${dir}, or set gateway.stateDir`;
      const said = `the gateway's certificate cannot be made in ${dir}: ${(cause as Error).message}`;
      throw new LxstowError('bad-config', `${said}. ${advice}`, { cause });
    }
    log.info('server certificate made', { file: certFile, fingerprint: fingerprintOf(made.cert) });
  }
  const pair = { cert: readText(certFile, 'server certificate'), key: readText(keyFile, 'server key') };
  checkPair(pair.cert, pair.key, { files: [certFile, keyFile], settings: ['gateway.certificate', 'gateway.key'] });
  return pair;
}

/** Earlier versions left a file empty if the disk was full. */
function hasContent(file: string): boolean {
  return existsSync(file) && statSync(file).size > 0;
}

/** Addresses at which clients reach the gateway, as host:port: the configured ones, otherwise those on which it listens. */
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
