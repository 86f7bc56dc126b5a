/** The endpoints of the API over NATS. docs/asyncapi.yaml is generated from them: importing this file connects to nothing. */

import { cursorOf } from '../../backups/manifestListing.ts';
import type {
  Address,
  BackupPage,
  BackupRequest,
  ListRequest,
  Operation,
  OperationPage,
  OperationRequest,
  OperationsRequest,
  StatusPage,
  StatusRequest,
  WaitRequest,
} from '../../contract/schemas.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { coversOnly } from '../runs/scheduleView.ts';
import { assertInstance, showBackup, showListed } from '../views/backupView.ts';
import { cancelOperation, missingOperation } from '../views/cancelOperation.ts';
import { shownOperation } from '../views/operationView.ts';
import { instanceStates, statusCursor } from '../views/statusView.ts';
import { type Endpoint, firstFitting, isIn, longWait, overAfter, type Question, usualWaitSeconds } from './endpoint.ts';
import { runEndpoints } from './runEndpoints.ts';
import { scheduleEndpoints } from './scheduleEndpoints.ts';

const usual = { atOnce: 32, atOncePerClient: 16, timeoutMs: 20_000 };
const usualLimit = 100;

export const endpoints: Endpoint[] = [
  {
    ...usual,
    name: 'backups-list',
    subject: 'backups.list.{remote}.{project}.{instance}',
    description: 'Lists the backups of an instance, one page at a time. not-found if it has none and does not exist.',
    request: 'nats-api.json#/$defs/listRequest',
    answer: 'nats-api.json#/$defs/backupPage',
    async run(parts, question) {
      const page = await backupPage(parts, question.address, question);
      const { after } = question.body as ListRequest;
      if (page.backups.length === 0 && after === undefined)
        await assertInstance(parts, question.address, question.trace);
      return page;
    },
  },
  {
    ...usual,
    name: 'backups-list-all',
    subject: 'backups.list.{remote}.{project}',
    description: 'Lists the backups of all instances of a project, one page at a time.',
    request: 'nats-api.json#/$defs/listRequest',
    answer: 'nats-api.json#/$defs/backupPage',
    run: (parts, question) => {
      const { remote, project } = question.address;
      return backupPage(parts, { remote, project }, question);
    },
  },
  {
    ...usual,
    name: 'backups-show',
    subject: 'backups.show.{remote}.{project}.{instance}',
    description: 'Shows a backup with its tags; while it is being made, with its progress.',
    request: 'nats-api.json#/$defs/backupRequest',
    answer: 'nats-api.json#/$defs/backup',
    run: (parts, { address, body, signal }) =>
      showBackup(parts, { ...address, backup: (body as BackupRequest).backup }, signal),
  },
  {
    ...usual,
    name: 'operations-list',
    subject: 'operations.list.{remote}.{project}',
    description: 'Lists the operations of a project, newest first, one page at a time.',
    request: 'nats-api.json#/$defs/operationsRequest',
    answer: 'nats-api.json#/$defs/operationPage',
    run: operationPage,
  },
  {
    ...usual,
    name: 'operations-show',
    subject: 'operations.show.{remote}.{project}',
    description: 'Shows an operation.',
    request: 'nats-api.json#/$defs/operationRequest',
    answer: 'nats-api.json#/$defs/operation',
    run: async (parts, { address, body }) => {
      const found = await operationOf(parts, address, (body as OperationRequest).id);
      const [shown = found] = await parts.awayWorkers.explain([found]);
      return shownOperation(parts.progress.latest(shown));
    },
  },
  {
    ...usual,
    name: 'operations-wait',
    subject: 'operations.wait.{remote}.{project}',
    description:
      'Waits for an operation, and shows it once it has ended, or as it is after the timeout. It need not exist yet: a job that is published directly has no operation until a worker takes it.',
    request: 'nats-api.json#/$defs/waitRequest',
    answer: 'nats-api.json#/$defs/operation',
    ...longWait,
    async run(parts, { address, body }) {
      const { id, timeout = usualWaitSeconds } = body as WaitRequest;
      const now = await parts.operations.find(id, address.remote);
      if (now) assertThere(now.operation, address, id);
      // A job that was published directly to the queue has no operation until a worker takes it.
      const found = await parts.feed.untilEnded(operationKey(address.remote, id), overAfter(timeout, parts), {
        mayCome: true,
      });
      return shownOperation(parts.progress.latest(assertThere(found, address, id)));
    },
  },
  {
    ...usual,
    name: 'operations-cancel',
    subject: 'operations.cancel.{remote}.{project}',
    description:
      'Asks a backup or restore to end, and shows the operation as it is then. It ends as Cancelled once everything that it made is undone.',
    request: 'nats-api.json#/$defs/operationRequest',
    answer: 'nats-api.json#/$defs/operation',
    async run(parts, { address, body }) {
      return shownOperation(
        await cancelOperation(parts, await operationOf(parts, address, (body as OperationRequest).id)),
      );
    },
  },
  {
    ...usual,
    name: 'status-list',
    subject: 'status.list.{remote}.{project}',
    description: 'Lists the state of each instance of a project with its reason, sorted by name, one page at a time.',
    request: 'nats-api.json#/$defs/statusRequest',
    answer: 'nats-api.json#/$defs/statusPage',
    run: statusPage,
  },
  ...runEndpoints,
  ...scheduleEndpoints,
];

async function statusPage(parts: GatewayParts, question: Question): Promise<StatusPage> {
  const { address, body, room } = question;
  const { state, older_than: olderThan, limit = usualLimit, after } = body as StatusRequest;
  const wants = ({ remote, project }: Omit<Address, 'instance'>) =>
    remote === address.remote && project === address.project;
  const { statuses: found } = await instanceStates(parts, {
    wants,
    mayName: () => false,
    maySee: coversOnly({ remotes: isIn(question).remote, projects: isIn(question).project }),
    state,
    olderThan,
    after,
    most: limit + 1,
  });
  const fitting = firstFitting(found.slice(0, limit), (status) => status, room);
  const last = fitting.length < found.length ? fitting.at(-1) : undefined;
  return { instances: fitting, ...(last && { next: statusCursor(last) }) };
}

async function backupPage(
  { catalog }: GatewayParts,
  of: { remote: string; project: string; instance?: string },
  { body, room, signal }: Question,
): Promise<BackupPage> {
  const { limit = usualLimit, after } = body as ListRequest;
  const { summaries, next } = await catalog.page(of, { limit, ...(after === undefined ? {} : { after }) }, signal);
  const fitting = firstFitting(summaries, showListed, room);
  const last = fitting.length < summaries.length ? summaries[fitting.length - 1] : undefined;
  const cursor = last ? cursorOf(last.address, of) : next;
  return { backups: fitting, ...(cursor === undefined ? {} : { next: cursor }) };
}

async function operationPage(
  { operations, awayWorkers, progress }: GatewayParts,
  { address, body, room }: Question,
): Promise<OperationPage> {
  const { status, limit = usualLimit, after } = body as OperationsRequest;
  const cursor = ({ created_at, id }: Operation) => `${created_at}/${id}`;
  const behind = (await operations.list(address.remote))
    .filter((one) => one.project === address.project)
    .filter((one) => (status === undefined || one.status === status) && (after === undefined || cursor(one) < after))
    .sort((a, b) => (cursor(a) < cursor(b) ? 1 : -1));
  const fitting = firstFitting(
    await awayWorkers.explain(behind.slice(0, limit)),
    (one) => shownOperation(progress.latest(one)) as OperationPage['operations'][number],
    room,
  );
  const last = fitting.length < behind.length ? behind[fitting.length - 1] : undefined;
  return { operations: fitting, ...(last && { next: cursor(last) }) };
}

/** Returns the operation if it is of this host and project. Throws not-found otherwise, so that a client of one project learns nothing of another. */
function assertThere(found: Operation | undefined, { remote, project }: Address, id: string): Operation {
  if (found?.remote !== remote || found.project !== project) throw missingOperation(id);
  return found;
}

async function operationOf({ operations }: GatewayParts, address: Address, id: string): Promise<Operation> {
  return assertThere((await operations.find(id, address.remote))?.operation, address, id);
}
