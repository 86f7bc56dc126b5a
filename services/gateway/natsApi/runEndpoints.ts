/** The endpoints for runs over NATS. The host and project in the subject limit what a run covers and what the answer shows; `=all` stands for all of them. */
import { checkLock } from '../../backups/protection.ts';
import { LxstowError } from '../../contract/errors.ts';
import type {
  CreateRunBody,
  Run,
  RunChildrenRequest,
  RunRequest,
  RunRetryRequest,
  RunsRequest,
  ShownRun,
  WaitRequest,
} from '../../contract/schemas.ts';
import { checkEndpoints } from '../../notices/allowedEndpoints.ts';
import { createRun, retryRun } from '../../runs/createRun.ts';
import { type MaySee, shownRun } from '../../runs/fold.ts';
import { runCursor } from '../../runs/runStore.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  assertAllOfIt,
  cancelRun,
  childPage,
  chosenRemotes,
  missingRun,
  runPage,
  runTools,
  visibleRun,
} from '../runs/runView.ts';
import {
  type Endpoint,
  firstFitting,
  isIn,
  longWait,
  overAfter,
  type Question,
  selectorIn,
  usualWaitSeconds,
} from './endpoint.ts';

const usual = { atOnce: 32, atOncePerClient: 16, timeoutMs: 20_000, allowsAll: true };
const usualLimit = 100;

export const runEndpoints: Endpoint[] = [
  {
    ...usual,
    name: 'runs-create',
    subject: 'runs.create.{remote}.{project}',
    description:
      'Starts a run of the instances that the selector chooses, limited to the host and project in the subject. The same request with the same id does not start a second run.',
    request: 'http-create-run.json',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const request = requestIn(parts, question);
      const remotes = chosenRemotes(request.selector, parts.config);
      return shown(await createRun(runTools(parts), request, remotes, { trace: question.trace }), question);
    },
  },
  {
    ...usual,
    name: 'runs-list',
    subject: 'runs.list.{remote}.{project}',
    description:
      'Lists the runs that have children on this host and in this project, newest first, one page at a time.',
    request: 'run-answers.json#/$defs/runsRequest',
    answer: 'run-answers.json#/$defs/runPage',
    async run({ runs }, question) {
      const { limit = usualLimit, after } = question.body as RunsRequest;
      const page = await runPage(runs, { limit: Math.min(limit, usualLimit), after }, seenFrom(question));
      const fitting = firstFitting(page.runs, (run) => run, question.room);
      const last = fitting.length < page.runs.length ? fitting.at(-1) : undefined;
      return { ...page, runs: fitting, ...(last && { next: runCursor(last) }) };
    },
  },
  {
    ...usual,
    name: 'runs-show',
    subject: 'runs.show.{remote}.{project}',
    description: 'Shows the part of a run that is on this host and in this project.',
    request: 'run-answers.json#/$defs/runRequest',
    answer: 'run-answers.json#/$defs/run',
    run: async (parts, question) => shown(await runOf(parts, question), question),
  },
  {
    ...usual,
    name: 'runs-wait',
    subject: 'runs.wait.{remote}.{project}',
    description:
      'Waits for a run, and shows the part of it that is on this host and in this project, once it has ended, or as it is after the timeout.',
    request: 'nats-api.json#/$defs/waitRequest',
    answer: 'run-answers.json#/$defs/run',
    ...longWait,
    async run(parts, question) {
      const { id, timeout = usualWaitSeconds } = question.body as WaitRequest;
      const before = await runOf(parts, question);
      return shown((await parts.runFeed.untilEnded(id, overAfter(timeout, parts)))?.run ?? before, question);
    },
  },
  {
    ...usual,
    name: 'runs-children',
    subject: 'runs.children.{remote}.{project}',
    description: "Lists a run's children on this host and in this project, one page at a time.",
    request: 'run-answers.json#/$defs/childrenRequest',
    answer: 'run-answers.json#/$defs/childPage',
    async run(parts, question) {
      const { state, limit = usualLimit, after } = question.body as RunChildrenRequest;
      const asked = { state, limit, after, room: question.room };
      return childPage(parts.runs, await runOf(parts, question), asked, seenFrom(question));
    },
  },
  {
    ...usual,
    name: 'runs-cancel',
    subject: 'runs.cancel.{remote}.{project}',
    description:
      'Asks a run and all its children to end, and shows the run as it is then. The whole run must be on this host and in this project.',
    request: 'run-answers.json#/$defs/runRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { id } = await wholeRun(parts, question);
      return shown(await cancelRun(parts.runs, id), question);
    },
  },
  {
    ...usual,
    name: 'runs-retry',
    subject: 'runs.retry.{remote}.{project}',
    description:
      'Starts a new run of the backups that failed in a finished run. The whole run must be on this host and in this project.',
    request: 'run-answers.json#/$defs/retryRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { new_id } = question.body as RunRetryRequest;
      const { request, ...run } = await wholeRun(parts, question);
      const { keep: _, ...backups } = request;
      const deletesNothing = { ...run, request: backups };
      return shown(await retryRun(runTools(parts), deletesNothing, new_id, { trace: question.trace }), question);
    },
  },
];

function seenFrom(question: Question): MaySee {
  const place = isIn(question);
  return (remote, project) => place.remote(remote) && place.project(project);
}

/** The request, with its selector limited. */
function requestIn({ config }: GatewayParts, question: Question): CreateRunBody {
  const { selector, ...options } = question.body as CreateRunBody;
  // The right to publish runs is a right to make backups, not to delete them.
  if (options.keep)
    throw new LxstowError('forbidden', 'keep: start the run over HTTPS; a run from NATS may not delete backups');
  checkLock(options.object_lock, config.s3);
  const bounded = selectorIn(question, selector);
  checkEndpoints(question.body as CreateRunBody, config.notify);
  return { ...options, selector: bounded };
}

function runOf({ runs }: GatewayParts, question: Question): Promise<Run> {
  return visibleRun(runs, (question.body as RunRequest).id, seenFrom(question));
}

async function wholeRun(parts: GatewayParts, question: Question): Promise<Run> {
  const run = await runOf(parts, question);
  assertAllOfIt(run, seenFrom(question));
  return run;
}

function shown(run: Run, question: Question): ShownRun {
  const seen = shownRun(run, seenFrom(question), new Date());
  if (!seen) throw missingRun(run.id);
  return seen;
}
