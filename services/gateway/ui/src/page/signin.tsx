import { useState } from "preact/hooks";
import { useApp } from "../hooks.ts";

export function SignIn() {
  const app = useApp();
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  // Who comes without a cookie has done nothing wrong yet.
  const refusal = error || (app.everLive || app.link.closeCode !== 4001 ? app.link.why : "");
  return (
    <main class="signin">
      <h1>rollcall</h1>
      <form
        onSubmit={async (e) => {
          e.preventDefault();
          const field = e.currentTarget.elements.namedItem("token") as HTMLInputElement;
          const token = field.value.trim();
          if (token === "") {
            setError("An access token is needed.");
            return;
          }
          setBusy(true);
          setError("");
          try {
            await app.signIn(token);
            field.value = "";
          } catch (problem) {
            setError("Not signed in: " + (problem as Error).message);
          } finally {
            setBusy(false);
          }
        }}
      >
        <label>
          Access token
          <input type="password" name="token" autocomplete="off" spellcheck={false} autofocus aria-describedby="token-help" />
        </label>
        <p id="token-help">
          An operator's token, as <code>bin/token --scope operator.read</code> prints it; with <code>operator.write</code> leases can be decided.
        </p>
        {refusal !== "" && (
          <p class="problem" role="alert">
            {refusal}
          </p>
        )}
        <button type="submit" disabled={busy}>
          Sign in
        </button>
      </form>
    </main>
  );
}
