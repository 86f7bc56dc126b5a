/** Puts a gateway's trust together: the store and its copy, the directory, open connections, the audit log. */
import { setTimeout } from 'node:timers/promises';
import type { Config } from '../../contract/schemas.ts';
import type { Nats } from '../../nats/connection.ts';
import { auditLog, type Log } from '../../telemetry/logger.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import { advertisedAddresses, type ServerCertificate } from '../../trust/serverCertificate.ts';
import type { GatewayPlace } from '../../trust/tokens.ts';
import { TrustCopy } from '../../trust/trustCopy.ts';
import { TrustDirectory } from '../../trust/trustDirectory.ts';
import { TrustStore } from '../../trust/trustStore.ts';
import { Connections } from './connections.ts';
import { RefusalLimit } from './refusalLimit.ts';
import { Trust } from './trust.ts';

const announceEveryMs = 600_000;
/** How many times the limit of one client an address may use, before it counts as a client that shows many certificates. */
const clientsOfAnAddress = 10;

export interface TrustParts {
  trust: Trust;
  trustStore: TrustStore;
  trustCopy: TrustCopy;
  connections: Connections;
  audit: Log;
  /** The addresses of this gateway, and of others with the same certificate. */
  place(): Promise<GatewayPlace>;
  /** Records this gateway's addresses at intervals, for the command line. */
  announce(port: number): void;
}

/** Throws if NATS does not have the bucket. */
export async function openTrust(
  config: Config,
  certificate: ServerCertificate,
  nats: Nats,
  log: Log,
  signal: AbortSignal,
): Promise<TrustParts> {
  const { gateway } = config;
  const fingerprint = fingerprintOf(certificate.cert);
  const connections = new Connections();
  const store = new TrustStore(nats, log);
  const atOnce = new TrustStore(nats, log, 0);
  const copy = await TrustCopy.open(
    atOnce,
    log,
    { onChange: (client, isNew) => connections.close(client, isNew) },
    signal,
  );
  if (copy.isEmpty && !gateway.trustDir && !gateway.trustCa)
    log.warn('no client is trusted yet: `lxstow trust token <name>` makes a token');
  const directory =
    gateway.trustDir === undefined
      ? undefined
      : new TrustDirectory(gateway.trustDir, log, (client) => connections.close(client));
  void directory?.follow(signal);
  const audit = auditLog(config.log, 'gateway');
  const refusals = new RefusalLimit(gateway.refusalsPerMinute);
  const enrolments = {
    ofClient: new RefusalLimit(gateway.refusalsPerMinute),
    ofAddress: new RefusalLimit(clientsOfAnAddress * gateway.refusalsPerMinute),
  };
  let own: GatewayPlace = { fingerprint, addresses: advertisedAddresses(gateway, gateway.port) };

  async function announceForEver(): Promise<void> {
    while (!signal.aborted) {
      try {
        await store.announce(own);
      } catch (error) {
        log.warn('where this gateway is could not be announced', { error });
      }
      await setTimeout(announceEveryMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  return {
    trust: new Trust({ config: gateway, log, copy, store: atOnce, directory, refusals, enrolments, connections }),
    trustStore: store,
    trustCopy: copy,
    connections,
    audit,
    async place() {
      const others = (await store.gateways()).find((each) => each.fingerprint === fingerprint)?.addresses ?? [];
      return { fingerprint, addresses: [...new Set([...own.addresses, ...others])] };
    },
    announce(port) {
      own = { fingerprint, addresses: advertisedAddresses(gateway, port) };
      void announceForEver();
    },
  };
}
