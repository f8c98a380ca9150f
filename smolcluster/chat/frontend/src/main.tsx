import { createRoot } from "react-dom/client";
import { App } from "./App";
import { Store } from "./state/store";
import { browserStorage } from "./state/storage";
import { loadTheme, setTheme } from "./state/theme";
import "./styles/colours.css";
import "./styles/base.css";
import "./styles/page.css";
import "./styles/text.css";
import "./styles/panels.css";

const storage = browserStorage();
// Before anything is drawn, so that nothing flashes.
setTheme(storage, loadTheme(storage));
const store = new Store(storage);
store.resume();
createRoot(document.getElementById("page")!).render(<App store={store} storage={storage} />);
