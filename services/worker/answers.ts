/** Answers gateways' questions about what is in this worker's LXD. */
import { answerInventory, type InventoryQuestion, largestPageBytes } from '../hosts/hostInventory.ts';
import { answerLookUp, type LookUpAnswer, type LookUpQuestion } from '../hosts/lookUp.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import { findInstance, poolDriver, projectExists } from '../lxd/instances.ts';
import {
  type LxdObject,
  listInstances,
  listPools,
  listProjects,
  readInstance,
  readInstanceState,
} from '../lxd/inventory.ts';
import type { Nats } from '../nats/connection.ts';
import type { Log } from '../telemetry/logger.ts';
import { restrictionsOf } from './restore/mayBring.ts';
import { whyNotReplaceable } from './restore/replace.ts';

const lookTimeoutMs = 5000;

/** Answers until the signal aborts. */
export function answerQuestions(nats: Nats, lxd: LxdClient, log: Log, signal: AbortSignal): void {
  answerLookUp(
    nats,
    lxd.remote,
    (question, trace) => {
      log.debug('asked', { trace: trace.id, ...question });
      return look(lxd, question);
    },
    signal,
  );
  answerInventory(nats, lxd.remote, (question, asking) => inventory(lxd, question, asking), signal);
}

async function look(
  lxd: LxdClient,
  { project, instance, pool, replace = false, profiles }: LookUpQuestion,
): Promise<LookUpAnswer> {
  const signal = AbortSignal.timeout(lookTimeoutMs);
  const [projectThere, found, driver, limits] = await Promise.all([
    projectExists(lxd, project, signal),
    findInstance(lxd, { remote: lxd.remote, project, instance }, signal),
    pool === undefined ? undefined : poolDriver(lxd, pool, signal),
    profiles && restrictionsOf(lxd, project, profiles, signal),
  ]);
  const refusal = replace && found ? whyNotReplaceable(found) : undefined;
  return {
    project: projectThere,
    instance: found !== undefined,
    ...(pool === undefined ? {} : { pool: driver !== undefined }),
    ...(refusal === undefined ? {} : { refusal }),
    ...limits,
  };
}

async function inventory(lxd: LxdClient, question: InventoryQuestion, signal: AbortSignal): Promise<LxdObject[]> {
  switch (question.kind) {
    case 'instances':
      return listInstances(lxd, { ...question, bytes: largestPageBytes }, signal);
    case 'instance':
      return one(await readInstance(lxd, question, signal));
    case 'state':
      return one(await readInstanceState(lxd, question, signal));
    case 'projects':
      return listProjects(lxd, signal);
    case 'pools':
      return listPools(lxd, signal);
  }
}

function one(found: LxdObject | undefined): LxdObject[] {
  return found ? [found] : [];
}
