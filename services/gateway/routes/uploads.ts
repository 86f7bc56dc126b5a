/** Archives from elsewhere, as LXD's clients send them to be imported: each becomes a backup in the store. */
import { randomUUID } from 'node:crypto';
import { type Request, Router } from 'express';
import type { SlotMemory } from '../../archive/slotMemory.ts';
import { readTar } from '../../archive/tar/decompress.ts';
import type { LxdIndex } from '../../archive/tar/indexYaml.ts';
import { readIndex } from '../../archive/tar/lxdIndex.ts';
import { completed } from '../../archive/tar/tarHead.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { Places } from '../../concurrency/semaphore.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type Compression, check, type Operation, type Tags } from '../../contract/schemas.ts';
import { Intake, type Judge } from '../../intake/intake.ts';
import { countJob } from '../../telemetry/metrics.ts';
import { clientOf } from '../access/apiClient.ts';
import { isLimited, judgeOf, limitsIn } from '../access/restricted.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  assertNotOwn,
  compressionQuery,
  ended,
  endpointOf,
  placeOf,
  requestorOf,
  tagsOf,
  traceOfRequest,
} from '../http/requests.ts';
import { accepted } from '../http/respond.ts';
import { look } from '../views/backupView.ts';

interface Wanted {
  remote: string;
  project: string;
  /** In the place of the archive's own. */
  name: string | undefined;
  pool: string | undefined;
  compression: Compression;
  tags: Tags;
  told: { notifyEndpoint?: string };
}

/** A second. Who sends less holds a place that others want. */
const slowestBytes = 1024;

export function uploadRoutes(parts: GatewayParts): Router {
  const { config, log, metrics, nats, operations, feed, reservations, catalog, keeper, transfers } = parts;
  const { clientIdleTimeoutMs, ...tools } = transfers.tools;
  const intake = new Intake({
    ...tools,
    prefix: config.s3.prefix,
    ...{ cancels: feed, operations, reservations, catalog, keeper, log },
    onEnd: (operation, result) => countJob(metrics, operation, result),
  });
  const router = Router();
  /** One index at a time is parsed, whoever sends how many. */
  const parsing = new Places(1);

  router.post('/', async (request, response) => {
    if (!request.is('application/octet-stream'))
      throw new LxstowError('bad-request', 'lxstow makes no instances: send an archive, as application/octet-stream');
    const wanted = wantedOf(request);
    nats.assertConnected();
    using place = transfers.begin(clientOf(request).fingerprint);
    const { socket } = request;
    const before = socket.bytesRead;
    const pace = { moved: () => socket.bytesRead - before, leastBytes: (clientIdleTimeoutMs / 1000) * slowestBytes };
    using idle = new IdleWatch(clientIdleTimeoutMs, 'the client of an upload', 'client-stalled', pace);
    const gone = AbortSignal.any([ended(response), idle.signal]);
    idle.signal.addEventListener('abort', () => request.destroy(), { once: true });
    let operation: Operation | undefined;
    try {
      idle.watch(true);
      await readTar(
        request,
        async (bytes) => {
          const inTurn = async <T>(run: () => Promise<T>) => {
            // We are at work, not the client.
            idle.watch(false);
            using _turn = await parsing.take(gone);
            return await run();
          };
          const strict = isLimited(clientOf(request), config.gateway);
          const { index, tar } = await readIndex(bytes, { inTurn, strict });
          const judge = strict ? await judgeFor(index, wanted, request, inTurn) : undefined;
          idle.watch(true);
          operation = await receive(index, tar, wanted, place.memory, request, idle, gone, judge);
        },
        gone,
      );
    } catch (error) {
      throw gone.aborted ? gone.reason : error;
    } finally {
      metrics.received.inc({ peer: 'client' }, socket.bytesRead - before);
    }
    if (!operation) throw new LxstowError('bad-request', 'the archive is empty');
    accepted(response, operation, { name: operation.backup });
  });

  function wantedOf(request: Request): Wanted {
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
      told: endpointOf(request, config.notify),
    };
  }

  /** Judges what a client sends that may not bring everything: by what LXD says of its project, where a worker is up. */
  async function judgeFor(
    index: LxdIndex,
    { remote, project, name }: Wanted,
    request: Request,
    inTurn: <T>(run: () => Promise<T>) => Promise<T>,
  ): Promise<Judge> {
    const instance = name ?? check('names.json#/$defs/instanceName', index.name, "the archive's instance");
    const found = await look(parts, remote, { project, instance, profiles: [] }, traceOfRequest(request));
    return judgeOf(index, { instance }, limitsIn(found), { inTurn });
  }

  /** An operation from the first byte on, so that it can be watched, cancelled, and found when this gateway dies. */
  async function receive(
    index: LxdIndex,
    tar: AsyncIterable<Buffer>,
    { remote, project, name, pool, compression, tags, told }: Wanted,
    memory: SlotMemory,
    request: Request,
    idle: IdleWatch,
    gone: AbortSignal,
    judge: Judge | undefined,
  ): Promise<Operation> {
    const instance = name ?? check('names.json#/$defs/instanceName', index.name, "the archive's instance");
    assertNotOwn(instance);
    const length = request.get('content-length');
    return intake.take({
      id: randomUUID(),
      place: { remote, project, instance },
      index: pool === undefined ? index : { ...index, instance: { ...index.instance, pool } },
      // What is judged is stored, so that a restore adds nothing to it.
      tar: judge ? completed(tar) : tar,
      compression,
      tags,
      told,
      length: length === undefined ? undefined : Number(length),
      requestor: requestorOf(request),
      trace: traceOfRequest(request).id,
      ...(judge && { judge }),
      memory,
      idle,
      gone,
    });
  }

  return router;
}
