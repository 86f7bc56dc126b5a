/** The endpoints for schedules. In their subjects, `=all` stands for all hosts or all projects. */
import { mapInTurns } from '../../concurrency/mapInTurns.ts';
import { LxstowError } from '../../contract/errors.ts';
import type {
  ListRequest,
  ScheduleNextRequest,
  SchedulePage,
  SchedulePauseRequest,
  ScheduleRequest,
  ScheduleRunRequest,
  SchedulesPostBody,
} from '../../contract/schemas.ts';
import { all } from '../../nats/subjects.ts';
import { everything, shownRun } from '../../runs/fold.ts';
import type { StoredSchedule } from '../../schedules/scheduleStore.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import * as schedules from '../runs/scheduleChanges.ts';
import { coversOnly, showSchedule } from '../runs/scheduleView.ts';
import { type Endpoint, firstFitting, isIn, type Question, selectorIn } from './endpoint.ts';

const usual = { atOnce: 32, atOncePerClient: 16, timeoutMs: 20_000, allowsAll: true };
const usualLimit = 100;
const usualCount = 5;
/** A publisher may change schedules, but NATS does not tell it from a client that may only read. */
const masked = { mayChange: false };

const schedule = 'nats-api.json#/$defs/schedule';
const named = 'nats-api.json#/$defs/scheduleRequest';

export const scheduleEndpoints: Endpoint[] = [
  {
    ...usual,
    name: 'schedules-create',
    subject: 'schedules.create.{remote}.{project}',
    description:
      'Creates a schedule for the instances that its selector chooses, limited to the host and project in the subject. It cannot have a rule that deletes backups.',
    request: 'http-schedules-post.json',
    answer: schedule,
    run: shown((parts, question, client) => schedules.createSchedule(parts, client, wantedIn(question))),
  },
  {
    ...usual,
    name: 'schedules-list',
    subject: 'schedules.list.{remote}.{project}',
    description:
      'Lists the schedules that are entirely on this host and in this project, sorted by name, one page at a time.',
    request: 'nats-api.json#/$defs/listRequest',
    answer: 'nats-api.json#/$defs/schedulePage',
    run: schedulePage,
  },
  {
    ...usual,
    name: 'schedules-show',
    subject: 'schedules.show.{remote}.{project}',
    description:
      'Shows a schedule. As in all requests about a schedule, it must be entirely on this host and in this project.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => schedules.visibleSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-edit',
    subject: 'schedules.edit.{remote}.{project}',
    description:
      'Replaces the definition of a schedule, and shows it as it is then. It cannot have a rule that deletes backups.',
    request: 'http-schedules-post.json',
    answer: schedule,
    run: shown((parts, question, client) => schedules.editSchedule(parts, client, wantedIn(question))),
  },
  {
    ...usual,
    name: 'schedules-pause',
    subject: 'schedules.pause.{remote}.{project}',
    description:
      'Pauses a schedule until it is resumed, or until a given time, and shows it as it is then. If a schedule has a rule that deletes backups, its pause can be changed only over HTTPS.',
    request: 'nats-api.json#/$defs/schedulePauseRequest',
    answer: schedule,
    run: shown((parts, question, client) => {
      const { name, ...why } = question.body as SchedulePauseRequest;
      return schedules.pauseSchedule(parts, client, name, why);
    }),
  },
  {
    ...usual,
    name: 'schedules-resume',
    subject: 'schedules.resume.{remote}.{project}',
    description:
      'Resumes a schedule, and shows it as it is then. Its next run starts when it is next due, not at once. A schedule with a rule that deletes backups can be resumed only over HTTPS.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => schedules.resumeSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-run',
    subject: 'schedules.run.{remote}.{project}',
    description: 'Starts a run of a schedule now.',
    request: 'nats-api.json#/$defs/scheduleRunRequest',
    answer: 'run-answers.json#/$defs/run',
    async run(parts, question) {
      const { name, id } = question.body as ScheduleRunRequest;
      const run = await schedules.runScheduleNow(parts, clientIn(question), name, id);
      return shownRun(run, everything, new Date()) as object;
    },
  },
  {
    ...usual,
    name: 'schedules-delete',
    subject: 'schedules.delete.{remote}.{project}',
    description: 'Deletes a schedule, and shows it as it was. Its runs and backups stay.',
    request: named,
    answer: schedule,
    run: shown((parts, question, client) => schedules.removeSchedule(parts, client, nameIn(question))),
  },
  {
    ...usual,
    name: 'schedules-next',
    subject: 'schedules.next.{remote}.{project}',
    description: "Shows when a schedule is next due, or when each instance's next backup begins.",
    request: 'nats-api.json#/$defs/scheduleNextRequest',
    answer: 'nats-api.json#/$defs/scheduledTimes',
    async run(parts, question) {
      const { name, instances, count = usualCount } = question.body as ScheduleNextRequest;
      const client = clientIn(question);
      if (!instances) return { times: await schedules.nextTimes(parts, client, name, count) };
      const { times, silent } = await schedules.nextInstances(parts, client, name);
      const reasons = [...silent].map(([remote, { message }]) => [remote, message]);
      return { times, ...(reasons.length > 0 && { silent: Object.fromEntries(reasons) }) };
    },
  },
];

type Act = (parts: GatewayParts, question: Question, client: schedules.ScheduleClient) => Promise<StoredSchedule>;

function shown(act: Act): Endpoint['run'] {
  return async (parts, question) => showSchedule(parts, await act(parts, question, clientIn(question)), masked);
}

async function schedulePage(parts: GatewayParts, question: Question): Promise<SchedulePage> {
  const { limit = usualLimit, after = '' } = question.body as ListRequest;
  const { may } = clientIn(question);
  const behind = (await parts.schedules.list()).filter((each) => each.schedule.name > after && may(each.schedule));
  const page = await mapInTurns(behind.slice(0, limit), (each) => showSchedule(parts, each, masked));
  const fitting = firstFitting(page, (each) => each, question.room);
  const last = fitting.length < behind.length ? fitting.at(-1) : undefined;
  return { schedules: fitting, ...(last && { next: last.name }) };
}

/** A client that may touch only schedules entirely within the host and project of the subject. */
function clientIn(question: Question): schedules.ScheduleClient {
  const { address, requestor, trace } = question;
  const place = isIn(question);
  const may = coversOnly({
    ...(address.remote !== all && { remotes: place.remote }),
    ...(address.project !== all && { projects: place.project }),
  });
  return { requestor, restricted: false, may, trace };
}

function nameIn({ body }: Question): string {
  return (body as ScheduleRequest).name;
}

/** The schedule, with its selector limited. */
function wantedIn(question: Question): SchedulesPostBody {
  const { name, definition } = question.body as SchedulesPostBody;
  // The right to publish schedules is a right to make backups, not to delete them.
  if (definition.keep)
    throw new LxstowError('forbidden', 'keep: set it over HTTPS; a schedule from NATS may not delete backups');
  const bounded = selectorIn(question, definition.selector ?? {});
  return { name, definition: { ...definition, ...(Object.keys(bounded).length > 0 && { selector: bounded }) } };
}
