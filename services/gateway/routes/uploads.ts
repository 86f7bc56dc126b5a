/** The route to which LXD's clients send archives for an import. Each archive is stored as a backup. */
import { randomUUID } from 'node:crypto';
import type { Request, Response } from 'express';
import type { SlotMemory } from '../../archive/slotMemory.ts';
import { readTar, unpackLimits } from '../../archive/tar/decompress.ts';
import type { LxdIndex } from '../../archive/tar/indexYaml.ts';
import { readIndex } from '../../archive/tar/lxdIndex.ts';
import { completed } from '../../archive/tar/tarHead.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type Compression, type Config, check, type Operation, type Tags } from '../../contract/schemas.ts';
import type { Judge } from '../../intake/intake.ts';
import { isLarge } from '../../intake/receive.ts';
import { isLimited, judgeOf, limitsIn } from '../access/allowedContent.ts';
import { clientOf } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  assertNotOwn,
  compressionQuery,
  ended,
  endpointOf,
  placeOf,
  refuseLockHeaders,
  requestorOf,
  tagsOf,
  traceOfRequest,
} from '../http/requests.ts';
import { accepted } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { lookUp } from '../views/backupView.ts';

interface Wanted {
  remote: string;
  project: string;
  /** The instance's name; undefined: the one in the archive. */
  name: string | undefined;
  pool: string | undefined;
  compression: Compression;
  tags: Tags;
  webhook: { notifyEndpoint?: string };
}

/** Bytes per second. A slower client would block a transfer that others could use. */
const slowestBytes = 1024;

export const uploadRoutes: RouteGroup = {
  path: '/1.0/instances',
  routes: [{ method: 'POST', path: '/', least: 'operator', projects: 'named', readsBody: true, run: upload }],
};

/** An upload that is being received. */
interface Arriving {
  request: Request;
  wanted: Wanted;
  memory: SlotMemory;
  idle: IdleWatch;
  /** Aborts when the client is gone, or too slow. */
  gone: AbortSignal;
}

async function upload(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, metrics, nats, transfers } = parts;
  if (!request.is('application/octet-stream'))
    throw new LxstowError(
      'bad-request',
      'lxstow creates instances only by restoring backups; to upload an archive, send it as application/octet-stream',
    );
  refuseLockHeaders(request, 'an uploaded backup cannot be locked; to protect it: lxstow pin INSTANCE BACKUP --hold');
  const wanted = wantedOf(request, config);
  nats.assertConnected();
  using place = transfers.begin(clientOf(request).fingerprint, isLarge(lengthOf(request)));
  const { clientIdleTimeoutMs } = transfers.tools;
  const { socket } = request;
  const before = socket.bytesRead;
  const pace = { moved: () => socket.bytesRead - before, leastBytes: (clientIdleTimeoutMs / 1000) * slowestBytes };
  using idle = new IdleWatch(clientIdleTimeoutMs, 'the client of an upload', 'client-stalled', pace);
  const gone = AbortSignal.any([ended(response), idle.signal]);
  idle.signal.addEventListener('abort', () => request.destroy(), { once: true });
  const arriving = { request, wanted, memory: place.memory, idle, gone };
  let operation: Operation | undefined;
  try {
    idle.watch(true);
    await readTar(
      request,
      async (bytes) => {
        operation = await take(parts, arriving, bytes);
      },
      gone,
      { limits: unpackLimits },
    );
  } catch (error) {
    throw gone.aborted ? gone.reason : error;
  } finally {
    metrics.received.inc({ peer: 'client' }, socket.bytesRead - before);
  }
  if (!operation) throw new LxstowError('bad-request', 'the archive is empty');
  accepted(response, operation, { name: operation.backup });
}

/** Reads the index, judges the archive if the client is limited, and stores it. From then on, there is an operation that can be watched, cancelled, and found after a crash. */
async function take(parts: GatewayParts, arriving: Arriving, bytes: AsyncIterable<Buffer>): Promise<Operation> {
  const { config, transfers, intake } = parts;
  const { request, wanted, idle, gone } = arriving;
  const inTurn = async <T>(run: () => Promise<T>) => {
    // From here on, the client waits for us.
    idle.watch(false);
    using _turn = await transfers.parsing.take(gone);
    return await run();
  };
  const strict = isLimited(clientOf(request), config.gateway);
  const { index, tar } = await readIndex(bytes, { inTurn, strict });
  const own = check('names.json#/$defs/instanceName', index.name, "the archive's instance");
  check('names.json#/$defs/namesInArchive', index.instance, 'the archive');
  const instance = wanted.name ?? own;
  const judge = strict ? await judgeFor(parts, index, instance, arriving, inTurn) : undefined;
  idle.watch(true);
  assertNotOwn(instance);
  const { remote, project, pool, compression, tags, webhook } = wanted;
  return intake.take({
    id: randomUUID(),
    place: { remote, project, instance },
    index: pool === undefined ? index : { ...index, instance: { ...index.instance, pool } },
    // Store exactly what was judged, so that a restore adds nothing to it.
    tar: judge ? completed(tar) : tar,
    compression,
    tags,
    webhook,
    length: lengthOf(request),
    requestor: requestorOf(request),
    trace: traceOfRequest(request).id,
    ...(judge && { judge }),
    memory: arriving.memory,
    idle,
    gone,
  });
}

/** The bytes that the client announces. */
function lengthOf(request: Request): number | undefined {
  const length = request.get('content-length');
  return length === undefined ? undefined : Number(length);
}

function wantedOf(request: Request, config: Config): Wanted {
  // Incus's clients have headers of their own.
  const header = (what: 'name' | 'pool', schema: 'instanceName' | 'poolName') => {
    const name = [`X-LXD-${what}`, `X-Incus-${what}`].find((each) => request.get(each));
    return name ? (check(`names.json#/$defs/${schema}`, request.get(name), name) as string) : undefined;
  };
  return {
    ...placeOf(request, Object.keys(config.remotes), config.gateway.defaultRemote),
    name: header('name', 'instanceName'),
    pool: header('pool', 'poolName'),
    compression: compressionQuery(request) ?? config.worker.compression,
    tags: tagsOf(request),
    webhook: endpointOf(request, config.notify),
  };
}

/** The judge of a limited client's archive. If a worker is up, it considers how LXD restricts the project. */
async function judgeFor(
  parts: GatewayParts,
  index: LxdIndex,
  instance: string,
  { request, wanted: { remote, project } }: Arriving,
  inTurn: <T>(run: () => Promise<T>) => Promise<T>,
): Promise<Judge> {
  const found = await lookUp(parts, remote, { project, instance, profiles: [] }, traceOfRequest(request));
  return judgeOf(index, { instance }, limitsIn(found), { inTurn });
}
