/** The gateway: HTTPS with client certificates in front, NATS and the object store behind. It keeps no state that other gateways lack. */
import { once } from 'node:events';
import type https from 'node:https';
import { until } from '../concurrency/until.ts';
import { asLxstowError } from '../contract/errors.ts';
import { askToCompareRegularly } from '../fleet/keeper.ts';
import { openNotices } from '../notices/openNotices.ts';
import { probeOfNats } from '../outages/probes.ts';
import { type HealthServer, serveHealth } from '../telemetry/health.ts';
import { listen } from '../telemetry/listen.ts';
import { fingerprintOf } from '../trust/certificates.ts';
import { Gauges } from './gauges.ts';
import { createHttpsServer } from './httpsServer.ts';
import { serveOverNats } from './natsApi/service.ts';
import { type OpenedParts, openParts, type PartsOptions } from './openParts.ts';
import { serveRuns } from './runs/serveRuns.ts';

const startTimeoutMs = 10_000;
const lastAnswersMs = 5000;

/** Runs until `stop` aborts; then it answers open requests and accepts no new ones. Throws if it cannot start. */
export async function runGateway(options: PartsOptions): Promise<void> {
  const log = options.log.child({ service: 'gateway' });
  await using stack = new AsyncDisposableStack();
  const opened = await openParts({ ...options, log }, stack);
  const { parts, leasesBucket, fleetRead } = opened;
  const { config, nats, metrics, certificate, transfers, eventSockets, stop } = parts;
  const { address, port: wanted } = config.gateway;
  const notices = await openNotices({
    nats,
    runs: parts.runs,
    runFeed: parts.runFeed,
    config: config.notify,
    metrics,
    log,
    stop,
  });
  const server = createHttpsServer(parts);
  // So that the first question about states is answered from memory.
  await until(AbortSignal.timeout(startTimeoutMs), fleetRead).catch(() =>
    log.warn('the records of instances are still being read'),
  );
  const port = await listen(server, address, wanted, 'gateway.port');
  const health = stack.use(await serveHealthOf(opened));
  const service = await serveOverNats(parts);
  log.info('gateway ready', { address, port, health: health.port, fingerprint: fingerprintOf(certificate.cert) });
  const runs = serveRuns(parts, leasesBucket);
  const asking = askToCompareRegularly(parts.keeper, stop);
  parts.announce(port);

  if (!stop.aborted) await once(stop, 'abort');
  log.info('stopping');
  const closing = close(server, () => eventSockets[Symbol.asyncDispose]());
  await Promise.all([closing, service.drain(lastAnswersMs), notices.drain(lastAnswersMs), runs, asking]);
  await transfers.idle(AbortSignal.timeout(lastAnswersMs));
  opened.unfollow();
  log.info('gateway stopped');
  // Ends with a failure, so that systemd restarts the gateway (packaging/systemd).
  nats.closed.throwIfAborted();
}

/** Gives open requests some seconds to end. `closeSockets` ends the websockets, which would keep the server open. */
async function close(server: https.Server, closeSockets: () => Promise<void>): Promise<void> {
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeIdleConnections();
  await closeSockets();
  using _timer = setTimeout(() => server.closeAllConnections(), lastAnswersMs);
  await closed;
}

function serveHealthOf({ parts, leasesBucket, probeS3 }: OpenedParts): Promise<HealthServer> {
  const { config, nats, metrics, absences } = parts;
  const gauges = new Gauges({ ...parts, leasesBucket });
  const { healthAddress, healthPort } = config.gateway;
  return serveHealth(
    { address: healthAddress, port: healthPort, key: 'gateway.healthPort' },
    { nats: probeOfNats(nats) },
    { registry: metrics.registry, refresh: (signal) => gauges.refresh(signal) },
    // The gateway is ready even without S3, because it can still accept jobs.
    {
      s3: (signal) =>
        probeS3(signal).catch(async (error) => {
          throw await absences.explain(asLxstowError(error), false);
        }),
    },
  );
}
